//! Where everything meets: runs that compare methods, and tasks that are learned on top of an adapter.
//!
//! [`run`](run::run) carries out a [`Protocol`](kif_protocol::Protocol) cell by cell and leaves a
//! [`Record`](kif_report::record::Record) of each. [`learn`](learn::learn) adds one task to an adapter.

pub mod check;
pub mod checkpoint;
pub mod codec;
pub mod embedded;
pub mod evaluate;
pub mod exit;
pub mod learn;
pub mod perf;
pub mod run;
pub mod selftest;
