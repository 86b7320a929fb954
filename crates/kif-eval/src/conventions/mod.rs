//! What other projects would have printed for the same matrix.
//!
//! They use one word for several formulas, so numbers from two tables may differ where nothing else
//! does: of the same matrix of four tasks, one prints a BWT that is three quarters of another's.
//! [`PEERS`] says which formula each prints, as far as we know it; [`Peer::print`] computes it.

mod peers;
mod printed;

pub use peers::{Convention, Formula, PEERS, Peer, Quantity};
pub use printed::Printed;
