//! Methods of continual learning: one file each, and the list of them.

mod a_gem;
mod aim_merging;
mod ella;
mod ewc;
mod forever;
mod halve;
mod inc_lora;
mod joint;
mod kif;
mod l2p;
mod lfpt5;
mod migu;
mod moe_lora;
mod o_lora;
mod parts;
mod per_task;
mod prog_prompt;
mod replay;
mod replay_matched;
mod sapt_lora;
mod seq_lora;
mod seq_lora_matched;
mod skills;
mod slao;
mod tas_lora;
mod tasl;
mod two_loop;
mod vr_mcl;

#[cfg(test)]
mod reference;

use anyhow::Result;
use kif_data::{Batch, Encoded};
use kif_fusion::Regions;
use kif_model::ParamLayout;
use serde::{Deserialize, Serialize};

use crate::error::SettingError;
use crate::learner::Learner;
use crate::state::State;
use crate::task_view::TaskView;

pub use aim_merging::AimMergingConfig;
pub use ella::EllaConfig;
pub use ewc::{EwcConfig, EwcFisher};
pub use forever::ForeverConfig;
pub use kif::{Cleared, Estimated, ImportanceWeights, KifConfig, KifScope};
pub use l2p::L2pConfig;
pub use lfpt5::Lfpt5Config;
pub use migu::MiguConfig;
pub use moe_lora::MoeLoraConfig;
pub use o_lora::OLoraConfig;
pub use parts::Parts;
pub use prog_prompt::ProgPromptConfig;
pub use sapt_lora::SaptLoraConfig;
pub use seq_lora_matched::SeqLoraMatchedConfig;
pub use tas_lora::TasLoraConfig;
pub use tasl::TaslConfig;
pub use two_loop::{OuterOptimizer, TwoLoopConfig};
pub use vr_mcl::VrMclConfig;

/// A method of continual learning. It owns the learning step; the run owns the order of tasks, epochs and batches.
///
/// Per task: [`Learner::begin_task`], [`begin_task`](Self::begin_task), [`observe`](Self::observe) once per batch of
/// [`training_rows`](Self::training_rows), [`end_task`](Self::end_task). Between any two calls of `observe` the state
/// can be saved. To go on from it: both `begin_task` calls, then both `load_state` calls ([`resume`]).
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

    /// Called before the model is examined on task `task_idx` of the stream, which may be one that it has not learned
    /// yet; not before the base is. A method that acts on it is told the task of a test row: its scores do not compare
    /// with those of methods that are not.
    fn before_examining(&mut self, learner: &mut Learner, task_idx: usize) -> Result<()> {
        Ok(())
    }

    /// The rows that make up an epoch, before shuffling.
    fn training_rows(&self, task: &TaskView) -> Vec<Encoded> {
        task.rows.to_vec()
    }

    /// How the run presents the stream.
    fn regime(&self) -> Regime {
        Regime::Stream
    }

    /// Whether it needs what only a stream has: something kept of earlier tasks besides parameters and memory, or the
    /// number of tasks; or whether it trains something else than a LoRA. A single task on top of an adapter cannot be
    /// learned with it.
    fn needs_stream(&self) -> bool {
        self.regime() != Regime::Stream
    }

    /// Whether it reads the rows kept of earlier tasks: they are then part of what it keeps.
    fn keeps_memory(&self) -> bool {
        false
    }

    /// Bytes that it carries from one task to the next beside one adapter (or prompt) and the memory: vectors like a Fisher
    /// information, frozen prompts, rows that it drew. Slots are counted by the run. Asked behind [`end_task`](Self::end_task).
    fn kept_bytes(&self) -> u64 {
        0
    }

    /// What the masks of the last [`observe`](Self::observe) chose, for every tensor of the layout; none where it fused
    /// nothing under masks. Asked behind every `observe`, and only once for each.
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

/// How a run presents the stream to a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// One task after the other, with one set of parameters.
    Stream,
    /// All tasks at once: one training, then the last row of the matrix.
    Joint,
    /// Every task from the initial parameters: the diagonal of the matrix.
    PerTask,
}

/// State of a learner and a method, as of now.
pub fn save(learner: &Learner, method: &dyn Method) -> State {
    let mut state = State::default();
    learner.save_state(&mut state);
    method.save_state(&mut state);
    state
}

/// Goes on from `state` with a learner and a method that have begun the same task. An entry of `learner.` or
/// `method.` that is missing, has another length or belongs to neither is an error.
pub fn resume(learner: &mut Learner, method: &mut dyn Method, state: &State) -> Result<()> {
    learner.load_state(state)?;
    method.load_state(state)?;
    Ok(state.within(&save(learner, method))?)
}

/// The methods, with their settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodConfig {
    /// Plain fine-tuning, task after task.
    SeqLora,
    /// Plain fine-tuning with as many steps as KIF takes.
    SeqLoraMatched(SeqLoraMatchedConfig),
    /// The memory shuffled into every task.
    Replay,
    /// KIF's inner and memory steps without masks or fusion.
    ReplayMatched(TwoLoopConfig),
    /// KIF's steps, then half of both updates everywhere.
    Halve(TwoLoopConfig),
    /// The task's gradient, projected where it points against that of the memory.
    AGem,
    /// KIF's two loops, merged when learning and forgetting say so.
    AimMerging(AimMergingConfig),
    /// A new LoRA for every task, away from the entries that earlier updates fill.
    Ella(EllaConfig),
    /// A spring to where earlier tasks ended, as stiff as their Fisher information.
    Ewc(EwcConfig),
    /// The memory replayed at growing distances of model time.
    Forever(ForeverConfig),
    /// A new LoRA for every task beside the frozen ones.
    IncLora,
    /// A pool of soft prompts, chosen by the text.
    L2p(L2pConfig),
    /// A soft prompt that learns to write rows of its tasks, which stand for the earlier ones.
    Lfpt5(Lfpt5Config),
    /// Steps that move the rows with the largest outputs.
    Migu(MiguConfig),
    /// LoRA experts that a router chooses between for every token.
    MoeLora(MoeLoraConfig),
    /// A new LoRA for every task, orthogonal to the frozen ones.
    OLora(OLoraConfig),
    /// A new soft prompt for every task in front of the frozen ones; told the task at test time.
    ProgPrompt(ProgPromptConfig),
    /// A new LoRA for every task, and a router that mixes all of them for every row.
    SaptLora(SaptLoraConfig),
    /// Every task from an orthogonal start, and one running average of B.
    Slao,
    /// Every rank averaged between before and after a task, by its importance to either.
    TasLora(TasLoraConfig),
    /// Every matrix from before or after a task, by its importance to either.
    Tasl(TaslConfig),
    /// Meta-learning on task and memory, along a hypergradient of reduced variance.
    VrMcl(VrMclConfig),
    /// All tasks at once.
    Joint,
    /// Every task alone.
    PerTask,
    /// Recurrent-KIF.
    Kif(KifConfig),
}

impl MethodConfig {
    /// Every method with its published settings, controls before the method, references last.
    pub fn all() -> Vec<Self> {
        let mut methods = vec![
            Self::SeqLora,
            Self::SeqLoraMatched(SeqLoraMatchedConfig::default()),
            Self::Replay,
            Self::ReplayMatched(TwoLoopConfig::paper()),
            Self::Halve(TwoLoopConfig::released()),
            Self::AGem,
            Self::AimMerging(AimMergingConfig::default()),
            Self::Ella(EllaConfig::default()),
            Self::Ewc(EwcConfig::online()),
            Self::Ewc(EwcConfig::textbook()),
            Self::Forever(ForeverConfig::default()),
            Self::IncLora,
            Self::L2p(L2pConfig::default()),
            Self::Lfpt5(Lfpt5Config::default()),
            Self::Migu(MiguConfig::default()),
            Self::MoeLora(MoeLoraConfig::default()),
            Self::OLora(OLoraConfig::default()),
            Self::ProgPrompt(ProgPromptConfig::default()),
            Self::SaptLora(SaptLoraConfig::default()),
            Self::Slao,
            Self::TasLora(TasLoraConfig::default()),
            Self::Tasl(TaslConfig::default()),
            Self::VrMcl(VrMclConfig::default()),
        ];
        methods.extend(KifConfig::presets().map(|(_, config)| Self::Kif(config)));
        methods.extend([Self::Joint, Self::PerTask]);
        methods
    }

    /// The method that is called `name`; `kif` means `kif-paper`.
    pub fn by_name(name: &str) -> Option<Self> {
        let name = if name == "kif" { "kif-paper" } else { name };
        Self::all().into_iter().find(|method| method.name() == name)
    }

    /// Its name in records, reports and on the command line. A KIF whose settings are no preset, with or without
    /// the divisor of accumulation, is `kif-custom`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SeqLora => "seq_lora",
            Self::SeqLoraMatched(_) => "seq_lora_matched",
            Self::Replay => "replay",
            Self::ReplayMatched(_) => "replay_matched",
            Self::Halve(_) => "halve",
            Self::AGem => "a_gem",
            Self::AimMerging(_) => "aim_merging",
            Self::Ella(_) => "ella",
            Self::Ewc(config) => config.name(),
            Self::Forever(_) => "forever",
            Self::IncLora => "inc_lora",
            Self::L2p(_) => "l2p",
            Self::Lfpt5(_) => "lfpt5",
            Self::Migu(_) => "migu",
            Self::MoeLora(_) => "moe_lora",
            Self::OLora(_) => "o_lora",
            Self::ProgPrompt(_) => "prog_prompt",
            Self::SaptLora(_) => "sapt_lora",
            Self::Slao => "slao",
            Self::TasLora(_) => "tas_lora",
            Self::Tasl(_) => "tasl",
            Self::VrMcl(_) => "vr_mcl",
            Self::Joint => "joint",
            Self::PerTask => "per_task",
            Self::Kif(config) => config.name(),
        }
    }

    /// One line for tables and help.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::SeqLora => "plain fine-tuning, task after task",
            Self::SeqLoraMatched(_) => "plain fine-tuning with as many steps as KIF takes",
            Self::Replay => "the memory shuffled into every task",
            Self::ReplayMatched(_) => "KIF's inner and memory steps without masks or fusion",
            Self::Halve(_) => "KIF's steps, then half of both updates everywhere",
            Self::AGem => "the task's gradient, projected where it points against the memory's",
            Self::AimMerging(_) => "KIF's two loops, merged when learning and forgetting say so",
            Self::Ella(_) => "a new LoRA for every task, away from what earlier updates fill",
            Self::Ewc(_) => "a spring to where earlier tasks ended, by their Fisher information",
            Self::Forever(_) => "the memory replayed at growing distances of model time",
            Self::IncLora => "a new LoRA for every task beside the frozen ones",
            Self::L2p(_) => "a pool of soft prompts, chosen by the text",
            Self::Lfpt5(_) => "a soft prompt that writes rows of earlier tasks to learn from",
            Self::Migu(_) => "only the rows with the largest outputs move",
            Self::MoeLora(_) => "LoRA experts that a router chooses between for every token",
            Self::OLora(_) => "a new LoRA for every task, orthogonal to the frozen ones",
            Self::ProgPrompt(_) => "a new soft prompt for every task; told the task at test time",
            Self::SaptLora(_) => "a new LoRA for every task; a router mixes them by the row",
            Self::Slao => "every task from an orthogonal start, and one running average of B",
            Self::TasLora(_) => "ranks averaged between before and after a task, by importance",
            Self::Tasl(_) => "matrices from before or after a task, by importance",
            Self::VrMcl(_) => "meta-learning on task and memory with reduced variance",
            Self::Joint => "all tasks at once (upper bound)",
            Self::PerTask => "every task alone (reference for FWT)",
            Self::Kif(config) => config.summary(),
        }
    }

    /// Whether every setting is in its range.
    pub fn check(&self) -> Result<(), SettingError> {
        match self {
            Self::SeqLoraMatched(config) => config.check(),
            Self::ReplayMatched(config) | Self::Halve(config) => config.check(),
            Self::AimMerging(config) => config.check(),
            Self::Ella(config) => config.check(),
            Self::Ewc(config) => config.check(),
            Self::Forever(config) => config.check(),
            Self::L2p(config) => config.check(),
            Self::Lfpt5(config) => config.check(),
            Self::Migu(config) => config.check(),
            Self::MoeLora(config) => config.check(),
            Self::OLora(config) => config.check(),
            Self::ProgPrompt(config) => config.check(),
            Self::SaptLora(config) => config.check(),
            Self::TasLora(config) => config.check(),
            Self::Tasl(config) => config.check(),
            Self::VrMcl(config) => config.check(),
            Self::Kif(config) => config.check(),
            Self::SeqLora
            | Self::Replay
            | Self::AGem
            | Self::Slao
            | Self::IncLora
            | Self::Joint
            | Self::PerTask => Ok(()),
        }
    }

    /// What it trains in a stream of `n_tasks`.
    pub fn parts(&self, n_tasks: usize) -> Parts {
        match self {
            Self::Ella(_) | Self::IncLora | Self::OLora(_) => Parts {
                n_slots: n_tasks,
                ..Parts::default()
            },
            Self::L2p(config) => config.parts(),
            Self::Lfpt5(config) => config.parts(),
            Self::MoeLora(config) => config.parts(),
            Self::ProgPrompt(config) => config.parts(n_tasks),
            Self::SaptLora(config) => config.parts(n_tasks),
            _ => Parts::default(),
        }
    }

    /// The peak learning rate among its settings, for methods that train what wants another rate than LoRA. It goes
    /// before the run's and behind one that the run has for this method alone
    /// ([`Protocol::training_of`](kif_protocol::Protocol::training_of)).
    pub fn peak_rate(&self) -> Option<f64> {
        match self {
            Self::L2p(config) => Some(config.lr),
            Self::Lfpt5(config) => Some(config.lr),
            Self::ProgPrompt(config) => Some(config.lr),
            _ => None,
        }
    }

    /// The same method where nothing is accumulated: the memory loss is not divided by a number of micro-batches.
    pub fn without_accumulation(self) -> Self {
        let whole = |config: TwoLoopConfig| TwoLoopConfig {
            outer_loss_scale: 1.0,
            ..config
        };
        match self {
            Self::ReplayMatched(config) => Self::ReplayMatched(whole(config)),
            Self::Halve(config) => Self::Halve(whole(config)),
            Self::Kif(config) => Self::Kif(KifConfig {
                outer_loss_scale: 1.0,
                ..config
            }),
            other => other,
        }
    }

    /// The method, ready for the first task of a model with this layout. Settings must have passed
    /// [`check`](Self::check).
    pub fn build(&self, layout: &ParamLayout) -> Box<dyn Method> {
        match self {
            Self::SeqLora => Box::new(seq_lora::SeqLora),
            Self::SeqLoraMatched(config) => Box::new(seq_lora_matched::method(*config)),
            Self::Replay => Box::new(replay::Replay),
            Self::ReplayMatched(config) => Box::new(replay_matched::method(*config)),
            Self::Halve(config) => Box::new(halve::method(*config)),
            Self::AGem => Box::new(a_gem::AGem::default()),
            Self::AimMerging(config) => Box::new(aim_merging::AimMerging::new(*config)),
            Self::Forever(config) => Box::new(forever::Forever::new(*config)),
            Self::Slao => Box::new(slao::Slao::default()),
            Self::Ella(config) => Box::new(ella::Ella::new(*config, layout)),
            Self::Ewc(config) => Box::new(ewc::Ewc::new(*config, layout.n_params())),
            Self::IncLora => Box::new(inc_lora::IncLora),
            Self::L2p(config) => Box::new(l2p::L2p::new(*config, layout)),
            Self::Lfpt5(config) => Box::new(lfpt5::Lfpt5::new(*config)),
            Self::Migu(config) => Box::new(migu::Migu::new(*config)),
            Self::MoeLora(config) => Box::new(moe_lora::MoeLora::new(*config, layout)),
            Self::OLora(config) => Box::new(o_lora::OLora::new(*config, layout)),
            Self::ProgPrompt(_) => Box::new(prog_prompt::ProgPrompt::default()),
            Self::SaptLora(config) => Box::new(sapt_lora::SaptLora::new(*config)),
            Self::TasLora(config) => Box::new(tas_lora::TasLora::new(*config, layout)),
            Self::Tasl(config) => Box::new(tasl::Tasl::new(*config, layout)),
            Self::VrMcl(config) => Box::new(vr_mcl::VrMcl::new(*config)),
            Self::Joint => Box::new(joint::Joint),
            Self::PerTask => Box::new(per_task::PerTask::default()),
            Self::Kif(config) => Box::new(kif::method(*config, layout)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_methods() {
        for method in MethodConfig::all() {
            assert_eq!(MethodConfig::by_name(method.name()), Some(method.clone()));
            assert_eq!(method.clone().without_accumulation().name(), method.name());
            method.check().unwrap();
        }
        assert_eq!(
            MethodConfig::by_name("kif"),
            Some(MethodConfig::Kif(KifConfig::paper()))
        );
        assert_eq!(MethodConfig::by_name("sgd"), None);
    }

    #[test]
    fn configurations_survive_ron_and_refuse_unknown_fields() {
        for method in MethodConfig::all() {
            let text = ron::to_string(&method).unwrap();
            assert_eq!(
                ron::from_str::<MethodConfig>(&text).unwrap(),
                method,
                "{text}"
            );
        }
        let wrong = "seq_lora_matched((inner_steps: 8, outer_step: 4))";
        assert!(ron::from_str::<MethodConfig>(wrong).is_err());
    }
}
