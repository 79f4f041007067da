//! Stand-in until delivery is merged.
use crate::delivery::{Directive, LiveSession, Which};
/// What the domain asks of open sessions.
pub trait Sessions: Send + Sync + std::fmt::Debug {
    /// Tells them.
    fn direct(&self, which: &Which, directive: Directive) -> usize;
    /// Lists them.
    fn live(&self) -> Vec<LiveSession>;
}
/// None.
#[derive(Debug)]
pub struct NoSessions;
impl Sessions for NoSessions {
    fn direct(&self, _: &Which, _: Directive) -> usize {
        0
    }
    fn live(&self) -> Vec<LiveSession> {
        Vec::new()
    }
}
