//! Methods of continual learning: one file each, and the list of them.

mod config;
mod parts;
mod predictions;
mod skills;
mod spec;
pub mod two_loop;

#[cfg(test)]
mod reference;

use anyhow::Result;
use kif_data::{Batch, Encoded};
use kif_fusion::Regions;
use kif_model::LanguageModel;

use crate::learner::{Learner, LearnerConfig};
use crate::schedule::Schedule;
use crate::state::State;
use crate::task_view::TaskView;

use config::methods;

pub use parts::Parts;
pub use predictions::Distillation;
pub use spec::{FORWARD_ONLY, MethodSpec, Regime};
pub use two_loop::{OuterOptimizer, TwoLoopConfig};

// A line for every method: the file, the variant, and the type of its settings. The file's name is
// the method's in protocols. The order is that of tables: controls before the method, references
// last.
methods! {
    seq_lora: SeqLora(SeqLoraConfig),
    seq_lora_matched: SeqLoraMatched(SeqLoraMatchedConfig),
    replay: Replay(ReplayConfig),
    replay_matched: ReplayMatched(ReplayMatchedConfig),
    halve: Halve(HalveConfig),
    a_gem: AGem(AGemConfig),
    aim_merging: AimMerging(AimMergingConfig),
    der: Der(DerConfig),
    ella: Ella(EllaConfig),
    ewc: Ewc(EwcConfig),
    forever: Forever(ForeverConfig),
    inc_lora: IncLora(IncLoraConfig),
    l2p: L2p(L2pConfig),
    lfpt5: Lfpt5(Lfpt5Config),
    migu: Migu(MiguConfig),
    moe_lora: MoeLora(MoeLoraConfig),
    o_lora: OLora(OLoraConfig),
    prog_prompt: ProgPrompt(ProgPromptConfig),
    sapt_lora: SaptLora(SaptLoraConfig),
    slao: Slao(SlaoConfig),
    tas_lora: TasLora(TasLoraConfig),
    tasl: Tasl(TaslConfig),
    vr_mcl: VrMcl(VrMclConfig),
    kif: Kif(KifConfig),
    joint: Joint(JointConfig),
    per_task: PerTask(PerTaskConfig),
}

/// A method of continual learning. It owns the learning step; the run owns the order of tasks,
/// epochs and batches.
///
/// Per task: [`Learner::begin_task`], [`begin_task`](Self::begin_task), [`observe`](Self::observe)
/// once per batch of [`training_rows`](Self::training_rows), [`end_task`](Self::end_task). Between
/// any two calls of `observe` the state can be saved. To go on from it: both `begin_task` calls,
/// then both `load_state` calls ([`resume`]).
#[allow(unused_variables)]
pub trait Method: Send {
    /// Called once before the first batch of a task.
    fn begin_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        Ok(())
    }

    /// Learns from one batch; returns its mean loss in nats per target token, before the update.
    fn observe(&mut self, learner: &mut Learner, batch: &Batch) -> Result<f64> {
        learner.step(batch)
    }

    /// Called once after the last batch of a task.
    fn end_task(&mut self, learner: &mut Learner, task: &TaskView) -> Result<()> {
        Ok(())
    }

    /// Called before the model is evaluated on task `task_idx` of the stream, which may be one that
    /// it has not learned yet; not before the base is. A method that acts on it is told the task of
    /// a test row: its scores do not compare with those of methods that are not.
    fn before_evaluation(&mut self, learner: &mut Learner, task_idx: usize) -> Result<()> {
        Ok(())
    }

    /// The rows that make up an epoch, before shuffling.
    fn training_rows(&self, task: &TaskView) -> Vec<Encoded> {
        task.rows.to_vec()
    }

    /// Bytes that it carries from one task to the next beside one adapter (or prompt) and the
    /// memory: vectors like a Fisher information, frozen prompts, rows that it drew. Slots are
    /// counted by the run. Asked after [`end_task`](Self::end_task).
    fn kept_bytes(&self) -> u64 {
        0
    }

    /// What the masks of the last [`observe`](Self::observe) chose, for every tensor of the layout;
    /// none where it fused nothing under masks. Asked after every `observe`, and only once for
    /// each.
    fn take_regions(&mut self) -> Option<Vec<Regions>> {
        None
    }

    /// Writes what the method keeps between two batches, under `method.`.
    fn save_state(&self, state: &mut State) {}

    /// Reads what [`save_state`](Self::save_state) wrote, after `begin_task` of the same task.
    fn load_state(&mut self, state: &State) -> Result<()> {
        Ok(())
    }
}

/// Bytes of a row's ids, inputs and targets.
pub fn id_bytes(row: &Encoded) -> u64 {
    (size_of_val(&row.input_ids[..]) + size_of_val(&row.target_ids[..])) as u64
}

/// Bytes of vectors of f32.
fn bytes_of<'a>(vectors: impl IntoIterator<Item = &'a Vec<f32>>) -> u64 {
    vectors
        .into_iter()
        .map(|vector| size_of_val(vector.as_slice()) as u64)
        .sum()
}

/// State of a learner and a method, as of now.
pub fn save(learner: &Learner, method: &dyn Method) -> State {
    let mut state = State::default();
    learner.save_state(&mut state);
    method.save_state(&mut state);
    state
}

/// Goes on from `state` with a learner and a method that have begun the same task. An entry of
/// `learner.` or `method.` that is missing, has another length or belongs to neither is an error.
pub fn resume(learner: &mut Learner, method: &mut dyn Method, state: &State) -> Result<()> {
    learner.load_state(state)?;
    method.load_state(state)?;
    Ok(state.within(&save(learner, method))?)
}
