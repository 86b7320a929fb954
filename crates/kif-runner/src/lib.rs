#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! [`run`](run::run) carries out a [`Protocol`](kif_protocol::Protocol) cell by cell and leaves a
//! [`Record`](kif_report::record::Record) of each. [`learn`](learn::learn) adds one task to an
//! adapter. Both go from rows to ids by a [`Codec`](codec::Codec) and evaluate by
//! [`evaluate`](evaluate::evaluate). [`check`] looks at the files of a protocol before a run,
//! [`selftest`] holds a device against the CPU, [`perf`] times steps. [`embedded`] has the bases
//! and the stream inside the program, [`exit`] the exit code of a failure.

pub mod check;
pub mod checkpoint;
pub mod codec;
pub mod embedded;
pub mod evaluate;
pub mod exit;
pub mod hub;
pub mod learn;
mod pause;
pub mod perf;
pub mod run;
pub mod selftest;
