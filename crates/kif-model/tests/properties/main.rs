//! What holds for every model: random small configurations, ragged lengths and adapters.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod engines;
mod insights;
mod predictions;
mod prompts;
mod routing;
