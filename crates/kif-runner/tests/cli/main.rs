//! The built program on small models: what users type, what they get, and how it ends when something is wrong.

mod bench;
mod check;
mod doctor;
mod failures;
mod golden;
mod kit;
mod learn;
mod metrics;
mod perf;
mod report;
mod reproduction;
