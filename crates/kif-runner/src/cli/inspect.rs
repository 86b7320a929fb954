//! `kif inspect`: losses and gradients of a file as tensors, for comparison with other tools.
//! Dropout is off.

use std::path::PathBuf;

use anyhow::Result;
use kif_data::{Batch, Encoded, read_rows};
use kif_io::atomic;
use kif_io::failure::BadInput;
use kif_io::signal::StopFlag;
use kif_model::LanguageModel;
use kif_protocol::Compute;
use kif_runner::codec::check_vocabulary;
use kif_runner::evaluate::nll_per_row;
use safetensors::tensor::{Dtype, TensorView};

use super::common::{ComputeArguments, ModelAndRows, TemplateArgument, UNCUT, print};

/// Tokens that go through the model at once.
const BATCH_TOKENS: usize = 8192;

/// Arguments of `kif inspect`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("adapter", |arg| arg.help("Adapter in PEFT layout, adapters with a router, or soft prompts; with one, gradients are written too")))]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: ModelAndRows,
    /// Where the tensors go
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    #[command(flatten)]
    template: TemplateArgument,
    #[command(flatten)]
    compute: ComputeArguments,
}

/// Computes, writes, prints the mean loss.
pub(crate) fn run(arguments: Arguments, stop: &StopFlag) -> Result<()> {
    let compute = arguments.compute.apply(Compute::default())?;
    let input = &arguments.input;
    let read = read_rows(&input.data)?;
    let rows = input
        .codec(&arguments.template)?
        .encode_rows(&read, UNCUT)?;
    let mut model = input.load(&compute)?;
    check_vocabulary(&read, &rows, model.vocab_size())?;

    let nll = nll_per_row(model.as_ref(), &rows, BATCH_TOKENS, stop)?;
    let target_tokens: Vec<i64> = rows.iter().map(|row| row.target_ids.len() as i64).collect();
    let n_tokens: i64 = target_tokens.iter().sum();
    if n_tokens == 0 {
        return Err(BadInput(format!("{} has no target tokens", input.data.display())).into());
    }
    let mean_loss = nll.iter().sum::<f64>() / n_tokens as f64;
    let nll: Vec<f32> = nll.into_iter().map(|x| x as f32).collect();
    let mut tensors = Tensors::default();
    tensors.push_f32("nll_per_example", vec![rows.len()], &nll);
    tensors.push_f32("mean_loss", vec![1], &[mean_loss as f32]);
    tensors.push_i64("target_tokens", vec![rows.len()], &target_tokens);
    if input.adapter.is_some() {
        let grad = gradient(model.as_mut(), &rows, n_tokens as usize, stop)?;
        for spec in model.layout().specs() {
            tensors.push_f32(
                &format!("grad.{}", spec.name),
                spec.shape.clone(),
                &grad[spec.range.clone()],
            );
        }
    }
    atomic::write(&arguments.out, &tensors.to_bytes()?)?;
    let n_rows = rows.len();
    print(&format!(
        "rows           {n_rows}\ntarget_tokens  {n_tokens}\nmean_loss      {mean_loss:.6}\n"
    ))
}

/// The gradient of the mean loss over all target tokens of the file, `[P]`.
fn gradient(
    model: &mut dyn LanguageModel,
    rows: &[Encoded],
    n_tokens: usize,
    stop: &StopFlag,
) -> Result<Vec<f32>> {
    let mut grad = vec![0.0; model.layout().n_params()];
    let weight = (1.0 / n_tokens as f64) as f32;
    let lengths: Vec<usize> = rows
        .iter()
        .map(|row| row.input_ids.len() + row.target_ids.len())
        .collect();
    for batch in kif_runner::evaluate::batches(&lengths, BATCH_TOKENS, usize::MAX) {
        stop.check()?;
        let batch = Batch::from_rows(batch.iter().map(|&i| &rows[i]));
        model.loss_and_grad(&batch, weight, None, &mut grad)?;
    }
    Ok(grad)
}

/// Tensors on their way into a safetensors file.
#[derive(Default)]
struct Tensors {
    entries: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Tensors {
    fn push_f32(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.entries
            .push((name.to_owned(), Dtype::F32, shape, bytes));
    }

    fn push_i64(&mut self, name: &str, shape: Vec<usize>, values: &[i64]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.entries
            .push((name.to_owned(), Dtype::I64, shape, bytes));
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let views = (self.entries.iter())
            .map(|(name, dtype, shape, bytes)| {
                Ok((
                    name.as_str(),
                    TensorView::new(*dtype, shape.clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(safetensors::serialize(views, None)?)
    }
}
