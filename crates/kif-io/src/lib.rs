#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! [`atomic`] writes files and folders, [`hash`] says what a file holds, and
//! [`writer`] keeps a second process out of a folder. [`signal`] is the flag that every long loop
//! asks whether to stop, [`progress`] tells how long the rest takes. [`process`] and [`memory`]
//! start threads and measure memory. [`failure`] has the exit codes of a command and marks failures
//! that are the input's. [`ron`](mod@ron) says which RON is read.

pub mod atomic;
pub mod failure;
pub mod hash;
pub mod memory;
pub mod process;
pub mod progress;
pub mod ron;
pub mod signal;
pub mod writer;
