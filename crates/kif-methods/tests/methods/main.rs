//! What holds for every method, and what each one claims: by hand, against PyTorch, and on both
//! bases of `fixtures/quick`.

mod common;

mod baselines;
mod documents;
mod faults;
mod golden_trajectories;
mod kif;
mod learn;
mod learner;
mod merging;
mod prompts;
mod properties;
mod routing;
mod slots;
