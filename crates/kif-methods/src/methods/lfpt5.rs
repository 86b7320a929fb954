//! LFPT5: one soft prompt that learns to answer and to write rows of its tasks, which then stand
//! for the rows of earlier ones (Qin and Joty, *LFPT5: A Unified Framework for Lifelong Few-shot
//! Language Learning Based on Prompt Tuning of T5*, ICLR 2022, arXiv 2110.07298).
//!
//! Every row is learned twice: as text and answer, and as something to write, where the input is
//! the end token alone and the target text and answer one after the other. When a task has been
//! learned, rows of all tasks so far are drawn from the model. While the next one is learned, a
//! batch of them goes with every batch of the task, and their predictions are held near those of
//! the last prompt:
//!
//! `(1 - kl_weight) (L_answer + lm_weight L_write) + kl_weight KL(last prompt || prompt)`, the last
//! term on drawn rows.
//!
//! No row of an earlier task is kept or read.

use std::sync::Arc;

use anyhow::{Result, bail};
use kif_data::chance::{Purpose, key};
use kif_data::{Batch, Encoded};
use kif_model::{ParamLayout, PromptConfig, PromptSelection, Sampling};
use serde::{Deserialize, Serialize};

use super::predictions::log_softmax;
use super::prog_prompt::check_rate;
use super::{FORWARD_ONLY, Method, MethodSpec, Parts, id_bytes};
use crate::error::{SettingError, check_setting};
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::{Sampler, TaskView};

/// The prompt that learns.
const PRESENT: usize = 0;
/// The prompt as it was when the last task ended.
const LAST: usize = 1;
/// Texts that are drawn at once.
const DRAWN_AT_ONCE: usize = 32;

/// Prompt, drawn rows and weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lfpt5Config {
    /// Rows of the prompt (published: 300). At least 1.
    pub length: usize,
    /// Peak learning rate, in the place of the run's (published: 0.5). Positive.
    pub lr: f64,
    /// Weight of learning to write rows (published: 0.25). At least 0.
    pub lm_weight: f64,
    /// Weight of staying near the last prompt's predictions (published: 0.01). In `[0, 1)`.
    pub kl_weight: f64,
    /// Drawn rows, as a share of the rows that were learned; at least 1 row. In `(0, 1]`.
    pub share: f64,
    /// Every token is drawn among so many of the likeliest ones (published: 64). At least 1.
    pub top_k: usize,
    /// Longest row that is written, text and answer together, in tokens (published: 128); longer
    /// texts are cut. At least 4.
    pub longest: usize,
}

impl Default for Lfpt5Config {
    fn default() -> Self {
        Self {
            length: 300,
            lr: 0.5,
            lm_weight: 0.25,
            kl_weight: 0.01,
            share: 0.02,
            top_k: 64,
            longest: 128,
        }
    }
}

impl MethodSpec for Lfpt5Config {
    fn presets() -> Vec<Self> {
        vec![Self::default()]
    }

    fn name(&self) -> &'static str {
        "lfpt5"
    }

    fn summary(&self) -> &'static str {
        "a soft prompt that writes rows of earlier tasks to learn from"
    }

    fn check(&self) -> Result<(), SettingError> {
        let (lm, kl, share) = (self.lm_weight, self.kl_weight, self.share);
        check_setting(self.length > 0, "length", self.length, "at least 1")?;
        let fine = lm.is_finite() && lm >= 0.0;
        check_setting(fine, "lm_weight", lm, "a finite number, at least 0")?;
        let fine = (0.0..1.0).contains(&kl);
        check_setting(fine, "kl_weight", kl, "a number in [0, 1)")?;
        let fine = share > 0.0 && share <= 1.0;
        check_setting(fine, "share", share, "a number in (0, 1]")?;
        check_setting(self.top_k > 0, "top_k", self.top_k, "at least 1")?;
        check_setting(self.longest >= 4, "longest", self.longest, "at least 4")?;
        check_rate(self.lr)
    }

    fn parts(&self, _: usize) -> Parts {
        Parts::prompts(PromptConfig {
            n_prompts: 2,
            length: self.length,
            selection: PromptSelection::Fixed,
        })
    }

    fn peak_rate(&self) -> Option<f64> {
        Some(self.lr)
    }

    fn added_steps(&self) -> f64 {
        // Writing the batch, a batch of drawn rows answered and written, and its predictions before
        // and now.
        4.0 + FORWARD_ONLY
    }

    fn build(&self, _: &ParamLayout) -> Box<dyn Method> {
        Box::new(Lfpt5::new(*self))
    }
}

/// The row as something to write: the end token asks for text and answer, together at most
/// `longest` tokens. An end token behind the text tells it from the answer, whether the model's
/// prompts have one or not.
fn to_write(input: &[u32], target: &[u32], longest: usize) -> Encoded {
    let end = *target.last().expect("no row is empty");
    let room = longest.saturating_sub(target.len()).max(1);
    let text = input.strip_suffix(&[end]).unwrap_or(input);
    let mut written = text[..text.len().min(room - 1)].to_vec();
    written.push(end);
    written.extend_from_slice(target);
    Encoded {
        input_ids: vec![end],
        target_ids: written,
        cut: false,
    }
}

/// A drawn text as a row, if both parts were finished and neither is its end token alone. The text
/// keeps its end token where the model's prompts have one (`ended`).
fn to_row(parts: Vec<Vec<u32>>, ended: bool) -> Option<Encoded> {
    let [mut input_ids, target_ids] = parts.try_into().ok()?;
    if input_ids.len() < 2 || target_ids.len() < 2 {
        return None;
    }
    if !ended {
        input_ids.pop();
    }
    Some(Encoded {
        input_ids,
        target_ids,
        cut: false,
    })
}

/// The rows of `a`, then those of `b`.
fn joined(a: &Batch, b: &Batch) -> Batch {
    let mut joined = a.clone();
    b.inputs.rows().for_each(|row| joined.inputs.push(row));
    b.targets.rows().for_each(|row| joined.targets.push(row));
    joined
}

/// Steps on rows and on drawn rows.
pub(super) struct Lfpt5 {
    config: Lfpt5Config,
    /// Rows of all finished tasks.
    n_learned: u64,
    /// Rows drawn from the model when the last task ended.
    drawn: Arc<Vec<Encoded>>,
    /// Batches of them, in a task that has begun.
    batches: Option<Sampler>,
}

impl Lfpt5 {
    pub(super) fn new(config: Lfpt5Config) -> Self {
        Self {
            config,
            n_learned: 0,
            drawn: Arc::default(),
            batches: None,
        }
    }

    /// Puts the weighted gradient of all terms but the answers' into `grad`, which is 0: of
    /// writing, and of the distance to the last prompt.
    fn add_other_gradients(
        &self,
        learner: &mut Learner,
        all: &Batch,
        drawn: Option<&Batch>,
        grad: &mut [f32],
    ) -> Result<()> {
        let Lfpt5Config {
            lm_weight, longest, ..
        } = self.config;
        let kl_weight = self.kl_weight();
        if lm_weight > 0.0 {
            let rows = all.inputs.rows().zip(all.targets.rows());
            let rows: Vec<Encoded> = rows.map(|(x, y)| to_write(x, y, longest)).collect();
            let to_write = Batch::from_rows(&rows);
            learner.add_gradient(grad, |model, grad| {
                Ok(model.loss_and_grad(&to_write, 1.0, None, grad)?.nll)
            })?;
            let mean = 1.0 / to_write.targets.n_tokens() as f64;
            let factor = ((1.0 - kl_weight) * lm_weight * mean) as f32;
            grad.iter_mut().for_each(|g| *g *= factor);
        }
        let Some(drawn) = drawn.filter(|_| kl_weight > 0.0) else {
            return Ok(());
        };
        learner.model_mut().activate_prompts(&[LAST])?;
        let vocab_size = learner.model().vocab_size();
        let logits = learner.model_mut().target_logits(drawn)?;
        learner.model_mut().activate_prompts(&[PRESENT])?;
        let of_row = |logits: &Vec<f32>| log_softmax(logits, vocab_size);
        let log_probs: Vec<Vec<f32>> = logits.iter().map(of_row).collect();
        let weight = kl_weight / drawn.targets.n_tokens() as f64;
        learner.add_gradient(grad, |model, grad| {
            model.divergence_and_grad(drawn, &log_probs, weight as f32, None, grad)
        })?;
        Ok(())
    }

    /// The weight of the divergence: there is none without drawn rows.
    fn kl_weight(&self) -> f64 {
        if self.drawn.is_empty() {
            0.0
        } else {
            self.config.kl_weight
        }
    }

    /// Draws `n` texts and keeps those that are rows as `like` is one.
    fn draw(
        &self,
        learner: &mut Learner,
        task: &TaskView,
        like: &Encoded,
        n: u64,
    ) -> Result<Vec<Encoded>> {
        let sampling = Sampling {
            top_k: self.config.top_k,
            n_parts: 2,
            max_new_tokens: self.config.longest,
        };
        let keys: Vec<[u8; 32]> = (0..n)
            .map(|number| key(task.seed, Purpose::Sample, task.index as u64, number))
            .collect();
        let end = like.target_ids.last().copied();
        let ended = like.input_ids.last().copied() == end;
        let (mut rows, asked) = (Vec::new(), Vec::from_iter(end));
        for keys in keys.chunks(DRAWN_AT_ONCE) {
            let prompts = vec![asked.as_slice(); keys.len()];
            let texts = learner.model_mut().sample(&prompts, keys, sampling)?;
            rows.extend(texts.into_iter().filter_map(|parts| to_row(parts, ended)));
        }
        Ok(rows)
    }
}

impl Method for Lfpt5 {
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        let prompts = learner.layout().prompts();
        let (present, last) = (prompts[PRESENT].clone(), prompts[LAST].clone());
        let mut params = learner.params().to_vec();
        params.copy_within(present.clone(), last.start);
        learner.set_params(&params)?;
        learner.train_only(vec![present]);
        self.batches = Some(Sampler::of_rows(task, &self.drawn));
        Ok(learner.model_mut().activate_prompts(&[PRESENT])?)
    }

    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        let batches = self.batches.as_mut().filter(|_| !self.drawn.is_empty());
        let drawn = batches.map(Sampler::draw);
        let all = match &drawn {
            Some(drawn) => joined(batch, drawn),
            None => batch.clone(),
        };
        let mut others = vec![0.0; learner.params().len()];
        self.add_other_gradients(learner, &all, drawn.as_ref(), &mut others)?;
        let share = (1.0 - self.kl_weight()) as f32;
        learner.step_with(&all, |_, grad| {
            grad.iter_mut()
                .zip(&others)
                .for_each(|(g, other)| *g = share * *g + other);
        })
    }

    fn end_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        self.n_learned += task.rows.len() as u64;
        let n = ((self.config.share * self.n_learned as f64) as u64).max(1);
        self.drawn = Arc::new(match task.rows.first() {
            Some(like) => self.draw(learner, task, like, n)?,
            None => Vec::new(),
        });
        Ok(())
    }

    /// The ids of the drawn rows.
    fn kept_bytes(&self) -> u64 {
        self.drawn.iter().map(id_bytes).sum()
    }

    fn save_state(&self, state: &mut State) {
        let flat = flattened(&self.drawn);
        state.put_counter("method.n_learned", self.n_learned);
        state.put_counter("method.drawn_len", flat.len() as u64);
        state.put("method.drawn", &flat);
        if let Some(batches) = &self.batches {
            batches.save_state(state);
        }
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.n_learned = state.counter("method.n_learned")?;
        let len = state.counter("method.drawn_len")? as usize;
        let Some(drawn) = unflattened(state.tensor("method.drawn", len)?) else {
            bail!("method.drawn does not hold whole rows");
        };
        self.drawn = Arc::new(drawn);
        if let Some(batches) = &mut self.batches {
            batches.set_rows(&self.drawn);
            batches.load_state(state)?;
        }
        Ok(())
    }
}

/// Rows as one vector of whole numbers below 2^24: the lengths of a row, its ids, the next row.
fn flattened(rows: &[Encoded]) -> Vec<f32> {
    let mut flat = Vec::new();
    for Encoded {
        input_ids,
        target_ids,
        ..
    } in rows
    {
        flat.extend([input_ids.len() as f32, target_ids.len() as f32]);
        flat.extend(input_ids.iter().chain(target_ids).map(|&id| id as f32));
    }
    flat
}

/// What [`flattened`] made; nothing where it ends inside a row.
fn unflattened(mut flat: &[f32]) -> Option<Vec<Encoded>> {
    let mut rows = Vec::new();
    let ids = |values: &[f32]| values.iter().map(|&x| x as u32).collect::<Vec<_>>();
    while let Some((&[n_in, n_out], rest)) = flat.split_first_chunk() {
        let (input, rest) = rest.split_at_checked(n_in as usize)?;
        let (target, rest) = rest.split_at_checked(n_out as usize)?;
        rows.push(Encoded {
            input_ids: ids(input),
            target_ids: ids(target),
            cut: false,
        });
        flat = rest;
    }
    flat.is_empty().then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_as_text_and_answer_with_both_ends() {
        let whole = to_write(&[5, 6, 7, 1], &[9, 1], 8);
        assert_eq!(
            (whole.input_ids, whole.target_ids),
            (vec![1], vec![5, 6, 7, 1, 9, 1])
        );
        assert_eq!(
            to_write(&[5, 6, 7, 1], &[9, 1], 5).target_ids,
            [5, 6, 1, 9, 1]
        );
        assert_eq!(
            to_write(&[5, 6, 7, 1], &[9, 8, 7, 1], 4).target_ids,
            [1, 9, 8, 7, 1]
        );
        // A prompt that is continued has no end token of its own.
        assert_eq!(
            to_write(&[5, 6, 7], &[9, 1], 8).target_ids,
            [5, 6, 7, 1, 9, 1]
        );
    }

    #[test]
    fn what_is_kept_are_the_ids_of_drawn_rows() {
        let mut method = Lfpt5::new(Lfpt5Config::default());
        assert_eq!(method.kept_bytes(), 0);
        method.drawn = Arc::new(vec![to_row(vec![vec![5, 6, 1], vec![9, 1]], true).unwrap()]);
        assert_eq!(method.kept_bytes(), 5 * 4);
    }

    #[test]
    fn drawn_texts_are_rows_if_both_parts_say_something() {
        let row = to_row(vec![vec![5, 1], vec![9, 1]], true).unwrap();
        assert_eq!((row.input_ids, row.target_ids), (vec![5, 1], vec![9, 1]));
        let row = to_row(vec![vec![5, 1], vec![9, 1]], false).unwrap();
        assert_eq!((row.input_ids, row.target_ids), (vec![5], vec![9, 1]));
        for parts in [
            vec![vec![5, 1]],
            vec![vec![1], vec![9, 1]],
            vec![vec![5, 1], vec![1]],
        ] {
            assert_eq!(to_row(parts, false), None);
        }
    }

    #[test]
    fn rows_survive_a_state() {
        let row = |input: &[u32], target: &[u32]| Encoded {
            input_ids: input.to_vec(),
            target_ids: target.to_vec(),
            cut: false,
        };
        let rows = [row(&[5, 16_000_000, 1], &[2, 1]), row(&[1], &[1])];
        let flat = flattened(&rows);
        assert_eq!(unflattened(&flat).unwrap(), rows);
        assert_eq!(unflattened(&[]).unwrap(), []);
        assert!(unflattened(&flat[..flat.len() - 1]).is_none());
        assert!(unflattened(&flat[..1]).is_none());
    }
}
