//! How fast a device trains: LoRA steps of T5s with random weights, held against the rate of one
//! large product.

use std::fmt;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kif_data::{Batch, Encoded};
use kif_io::failure::{BadInput, OrBadInput};
use kif_io::memory::peak_rss_mib;
use kif_model::{
    DeviceKind, FeedForward, LanguageModel, LoraConfig, ModelConfig, ModelOptions, Precision,
    T5Config, Trainable, from_parts, gpu_peak_memory, random_weights,
};
use serde::Deserialize;

/// A published size of T5 v1.0, or one for trying things out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Width 64, 1 + 1 layers, 2 heads of 32, feed-forward 128, vocabulary 512
    Tiny,
    /// Width 512, 6 + 6 layers, 8 heads of 64, feed-forward 2048
    Small,
    /// Width 768, 12 + 12 layers, 12 heads of 64, feed-forward 3072
    Base,
    /// Width 1024, 24 + 24 layers, 16 heads of 64, feed-forward 4096
    Large,
}

impl Shape {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Base => "base",
            Self::Large => "large",
        }
    }

    /// The model.
    pub fn config(self) -> T5Config {
        let (d_model, n_layers, num_heads, d_ff) = match self {
            Self::Tiny => (64, 1, 2, 128),
            Self::Small => (512, 6, 8, 2048),
            Self::Base => (768, 12, 12, 3072),
            Self::Large => (1024, 24, 16, 4096),
        };
        let (d_kv, vocab_size) = match self {
            Self::Tiny => (32, 512),
            Self::Small | Self::Base | Self::Large => (64, 32128),
        };
        T5Config {
            vocab_size,
            d_model,
            d_kv,
            d_ff,
            num_heads,
            num_layers: n_layers,
            num_decoder_layers: n_layers,
            ..T5Config::default()
        }
    }
}

/// Rows of a batch and input tokens of each, as `8x128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows.
    pub n_rows: usize,
    /// Input tokens of every row.
    pub n_inputs: usize,
}

/// Target tokens of every row.
pub const N_TARGETS: usize = 16;

/// Most rows, and most tokens of a row.
const LARGEST: usize = 65_536;

impl FromStr for BatchShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('x')
            .and_then(|(rows, tokens)| Some((rows.parse().ok()?, tokens.parse().ok()?)));
        match numbers {
            Some((n_rows, n_inputs))
                if (1..=LARGEST).contains(&n_rows) && (1..=LARGEST).contains(&n_inputs) =>
            {
                Ok(Self { n_rows, n_inputs })
            }
            _ => Err(format!(
                "expected rows x input tokens, such as 8x128, each at most {LARGEST}"
            )),
        }
    }
}

impl fmt::Display for BatchShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}", self.n_rows, self.n_inputs))
    }
}

impl BatchShape {
    /// Rows of equal length and arbitrary ids of a vocabulary.
    fn batch(self, vocab_size: usize) -> Batch {
        // Behind the ids that mean something.
        let ids = |row: usize, n: usize| -> Vec<u32> {
            let id = |i| (row * 7919 + i * 104_729) % (vocab_size - 10) + 10;
            (0..n).map(|i| id(i) as u32).collect()
        };
        let rows: Vec<Encoded> = (0..self.n_rows)
            .map(|row| Encoded {
                input_ids: ids(row, self.n_inputs),
                target_ids: ids(row, N_TARGETS),
                cut: false,
            })
            .collect();
        Batch::from_rows(&rows)
    }
}

/// Operations of one LoRA step on q and v of every attention: two for each multiplication of the
/// products forward, for the gradients of their inputs, and for those of A and B. Frozen weights
/// have no gradient, and the inputs of the lowest q, k and v of encoder and decoder have none.
pub fn step_operations(config: &T5Config, rank: usize, batch: BatchShape) -> f64 {
    let [width, inner, d_ff, layers, decoder_layers, vocab, rank] = [
        config.d_model,
        config.num_heads * config.d_kv,
        config.d_ff,
        config.num_layers,
        config.num_decoder_layers,
        config.vocab_size,
        rank,
    ]
    .map(|n| n as f64);
    let [rows, inputs, targets] = [batch.n_rows, batch.n_inputs, N_TARGETS].map(|n| n as f64);
    let (n_inputs, n_targets) = (rows * inputs, rows * targets);
    let matrices = match config.feed_forward {
        FeedForward::Relu => 2.0,
        FeedForward::GatedGelu => 3.0,
    };
    let (projection, feed_forward) = (width * inner, matrices * width * d_ff);
    let encoder = layers * n_inputs * (4.0 * projection + feed_forward);
    // Cross-attention makes its keys and values of the inputs.
    let decoder = decoder_layers
        * (n_targets * (6.0 * projection + feed_forward) + n_inputs * 2.0 * projection);
    let head = n_targets * width * vocab;
    let lowest = 3.0 * projection * (n_inputs + n_targets);
    let frozen = 2.0 * (encoder + decoder + head) - lowest;
    // Scores and sums of values: two products forward, four backward.
    let pairs = layers * inputs * inputs + decoder_layers * (targets * targets + targets * inputs);
    let attention = 6.0 * rows * inner * pairs;
    // A and B of q and v have gradients of their own.
    let adapted = 2.0 * layers * n_inputs + decoder_layers * (3.0 * n_targets + n_inputs);
    let adapter =
        3.0 * adapted * rank * (width + inner) - 2.0 * width * rank * (n_inputs + n_targets);
    2.0 * (frozen + attention + adapter)
}

/// A model that is measured.
pub struct Subject {
    config: T5Config,
    device: DeviceKind,
    model: Box<dyn LanguageModel>,
    lora: LoraConfig,
}

/// What was measured of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The median.
    pub seconds: f64,
    /// Largest memory in MiB: of tensors on a GPU, of the process on the CPU, where the system
    /// tells.
    pub peak_mib: Option<u64>,
    /// Nats per target token in the last step.
    pub loss: f64,
}

/// Steps before the first that counts.
const WARM_UP: usize = 2;

impl Subject {
    /// A model of random weights with LoRA on q and v, without dropout.
    pub fn new(config: T5Config, device: DeviceKind, precision: Precision) -> Result<Self> {
        // Forgets what an earlier model took.
        peak_mib(device)?;
        let lora = LoraConfig::default();
        let options = ModelOptions {
            device,
            precision,
            ..ModelOptions::cpu(Trainable::Adapter(lora.clone()))
        };
        options.check()?;
        let parts = ModelConfig::T5(config.clone());
        let mut model = from_parts(&parts, random_weights(&parts, 1), &options)?;
        // B of a fresh adapter is zero; a trained one is not.
        let params = model.params().iter().enumerate();
        let params: Vec<f32> = params.map(|(i, p)| p + 1e-3 * (i % 7) as f32).collect();
        model.set_params(&params)?;
        Ok(Self {
            config,
            device,
            model,
            lora,
        })
    }

    /// Times `steps` gradients of a batch, from tokens on the host to gradients on the host.
    pub fn step(&mut self, batch: BatchShape, steps: usize) -> Result<Step> {
        let batch = batch.batch(self.config.vocab_size);
        let mut grad = vec![0.0; self.model.params().len()];
        let weight = 1.0 / batch.targets.n_tokens() as f32;
        peak_mib(self.device)?;
        let (mut seconds, mut nll) = (Vec::new(), 0.0);
        for k in 0..WARM_UP + steps {
            grad.fill(0.0);
            let start = Instant::now();
            nll = self
                .model
                .loss_and_grad(&batch, weight, None, &mut grad)?
                .nll;
            if k >= WARM_UP {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let loss = nll * f64::from(weight);
        if !loss.is_finite() || !grad.iter().all(|g| g.is_finite()) {
            bail!("a loss of {loss} or a gradient that is not finite");
        }
        Ok(Step {
            seconds: median(seconds),
            peak_mib: peak_mib(self.device)?,
            loss,
        })
    }

    /// Operations of a step on such a batch.
    pub fn operations(&self, batch: BatchShape) -> f64 {
        step_operations(&self.config, self.lora.rank, batch)
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    if seconds.len() % 2 == 1 {
        seconds[middle]
    } else {
        (seconds[middle - 1] + seconds[middle]) / 2.0
    }
}

/// Largest memory since the last call, in MiB. Counts anew; a system that does not let us is asked
/// for the process's largest since it began.
fn peak_mib(device: DeviceKind) -> Result<Option<u64>> {
    match device {
        DeviceKind::Cuda => Ok(Some(gpu_peak_memory()? >> 20)),
        DeviceKind::Cpu => {
            let peak = peak_rss_mib();
            let _ = std::fs::write("/proc/self/clear_refs", "5");
            Ok(peak)
        }
    }
}

/// A step of the peer, or why there was none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerStep {
    shape: String,
    batch: String,
    precision: String,
    step_s: Option<Vec<f64>>,
    /// Largest memory of tensors in MiB.
    pub peak_mib: Option<f64>,
    /// Why there is no time.
    pub error: Option<String>,
}

impl PeerStep {
    /// The median of its seconds.
    pub fn seconds(&self) -> Option<f64> {
        let seconds = self.step_s.clone().filter(|seconds| !seconds.is_empty());
        seconds.map(median)
    }
}

/// What PyTorch measured.
pub struct Peer(Vec<PeerStep>);

const PEER: &str = include_str!("../../kif-perf/peer/cuda_step.py");

/// PyTorch's number format for the work that we do in ours.
fn peer_precision(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::F16 | Precision::Bf16 | Precision::Int8 => "bf16",
    }
}

impl Peer {
    /// Measures the same steps with a Python that has torch and transformers.
    pub fn measure(
        python: &str,
        device: DeviceKind,
        shapes: &[Shape],
        batches: &[BatchShape],
        precisions: &[Precision],
        steps: usize,
    ) -> Result<Self> {
        let configs: serde_json::Map<_, _> = shapes
            .iter()
            .map(|shape| {
                Ok((
                    shape.name().to_owned(),
                    serde_json::to_value(shape.config())?,
                ))
            })
            .collect::<Result<_>>()?;
        let batches: Vec<String> = batches.iter().map(BatchShape::to_string).collect();
        let precisions = precisions
            .iter()
            .map(|&precision| peer_precision(precision));
        let precisions: Vec<&str> = precisions.collect();
        let device = match device {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
        };
        let output = Command::new(python)
            .args(["-c", PEER, "--device", device])
            .args(["--configs", &serde_json::Value::from(configs).to_string()])
            .args(["--batches", &batches.join(",")])
            .args(["--precisions", &precisions.join(",")])
            .args(["--targets", &N_TARGETS.to_string()])
            .args(["--steps", &steps.to_string()])
            .stderr(Stdio::inherit())
            .output()
            .or_bad_input(|| format!("starting {python}"))?;
        if !output.status.success() {
            let ended = format!("the peer ({python}) ended with {}", output.status);
            return Err(BadInput(ended).into());
        }
        let lines = String::from_utf8_lossy(&output.stdout);
        let steps = lines.lines().map(|line| {
            serde_json::from_str(line).with_context(|| format!("a line of the peer: {line}"))
        });
        Ok(Self(steps.collect::<Result<_>>()?))
    }

    /// Its measurement of this work.
    pub fn step(&self, shape: Shape, batch: BatchShape, precision: Precision) -> Option<&PeerStep> {
        let (batch, precision) = (batch.to_string(), peer_precision(precision));
        self.0.iter().find(|step| {
            step.shape == shape.name() && step.batch == batch && step.precision == precision
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: BatchShape = BatchShape {
        n_rows: 2,
        n_inputs: 8,
    };

    #[test]
    fn a_tiny_step_has_finite_numbers_on_the_cpu() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let mut subject =
                Subject::new(Shape::Tiny.config(), DeviceKind::Cpu, precision).unwrap();
            let step = subject.step(BATCH, 3).unwrap();
            assert!(step.seconds.is_finite() && step.seconds > 0.0, "{step:?}");
            assert!(step.loss.is_finite() && step.loss > 0.0, "{step:?}");
            assert!(subject.operations(BATCH) > 0.0);
        }
    }

    #[test]
    fn operations_are_those_counted_by_hand() {
        let config = T5Config {
            vocab_size: 10,
            d_model: 2,
            d_kv: 1,
            d_ff: 3,
            num_heads: 1,
            num_layers: 1,
            num_decoder_layers: 1,
            ..T5Config::default()
        };
        let one = BatchShape {
            n_rows: 1,
            n_inputs: 1,
        };
        // Multiplications forward: a projection has 2, a feed-forward block 12, the head 20 for
        // each of 16 targets.
        let linear = (4 * 2 + 12) + 16 * (6 * 2 + 12) + 2 * 2 + 16 * 20;
        // The lowest q, k and v of encoder and decoder, without gradients of their inputs.
        let lowest = 3 * 2 * (1 + 16);
        // Pairs of positions: 1 in the encoder, 16 x 16 and 16 x 1 in the decoder; 2 products
        // forward and 4 backward.
        let attention = 6 * (1 + 256 + 16);
        // q and v: of the encoder for 1 token, of the decoder for 16, of the cross-attention for 16
        // and 1.
        let adapter = 3 * (2 + 2 * 16 + 16 + 1) * (2 + 1) - 2 * 2 * (1 + 16);
        let by_hand = 2 * (2 * linear - lowest + attention + adapter);
        assert_eq!(step_operations(&config, 1, one), f64::from(by_hand));
    }

    #[test]
    fn batches_are_read_as_they_are_printed() {
        assert_eq!("2x8".parse(), Ok(BATCH));
        assert_eq!(BATCH.to_string(), "2x8");
        for bad in ["", "8", "0x8", "8x", "8x0", "8x128x2", "8x65537"] {
            assert!(bad.parse::<BatchShape>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
