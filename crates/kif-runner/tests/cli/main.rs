//! The built program on small models: what users type, what they get, and how it ends when
//! something is wrong.

mod adapters;
mod bases;
mod bench;
mod check;
mod doctor;
mod failures;
mod gguf;
mod golden;
mod kit;
mod learn;
mod memory;
mod metrics;
mod perf;
mod records;
mod report;
mod reproduction;
mod runs;
mod same_bits;
