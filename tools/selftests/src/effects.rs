// SPDX-License-Identifier: GPL-2.0
//! What cases do to the machine beyond their own files and VMs: only where its owner says
//! that they may. The test VM's jobs do (`guest.sh`), `run` of an installed collection
//! (`tools/install/run`) does on request.

use crate::ktap::skip;

/// Names the effects that are allowed.
const ALLOWED: &str = "PRIVMEMFD_MAY";

/// Something that others on the machine notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Memory blocks go offline, and come back.
    Offline,
    /// Pages are marked as failed; most can be used again.
    Poison,
    /// For a moment the whole machine has another limit, of open files for instance, or a node has
    /// no free memory.
    Limits,
}

impl Effect {
    fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Poison => "poison",
            Self::Limits => "limits",
        }
    }
}

fn is_allowed(effect: Effect, allowed: &str) -> bool {
    allowed.split_whitespace().any(|word| word == effect.name())
}

/// Ends the case as skipped where it must not do that.
pub fn affects_machine(effect: Effect) {
    if !is_allowed(effect, &std::env::var(ALLOWED).unwrap_or_default()) {
        let name = effect.name();
        skip(format!(
            "{name} is not allowed here ({ALLOWED}={name}, run --{name})"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_allowed() {
        assert!(is_allowed(Effect::Poison, "offline poison"));
        assert!(!is_allowed(Effect::Limits, "offline poison"));
        assert!(!is_allowed(Effect::Offline, ""));
        assert!(!is_allowed(Effect::Offline, "offlined"));
    }
}
