//! What every program of the workspace needs of the machine: files that are whole or not there, one writer, signals,
//! progress, threads, and how a command ends.

pub mod atomic;
pub mod failure;
pub mod hash;
pub mod memory;
pub mod process;
pub mod progress;
pub mod ron;
pub mod signal;
pub mod writer;
