//! Records of runs, the tables and pages made of them, and their comparison with published results.

pub mod matrices;
pub mod record;
pub mod report;
pub mod reproduction;
