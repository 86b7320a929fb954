//! What a benchmark runs, as a RON file that is read and checked, and the lock of what a run was made of.

mod arch;
pub mod lock;
mod protocol;
mod template;

pub use arch::Arch;
pub use protocol::*;
pub use template::TemplateSetting;
