#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! A [`Record`](record::Record) is what a cell leaves behind. [`report`] sums up the records of a
//! run as text, Markdown and one HTML page. [`matrices`] finds score matrices in runs, records and
//! files of plain numbers. [`reproduction`] keeps the records of runs in one folder and holds them
//! against published numbers.

pub mod matrices;
pub mod record;
pub mod report;
pub mod reproduction;
