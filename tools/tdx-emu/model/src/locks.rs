// SPDX-License-Identifier: GPL-2.0
//! The module's locks, as pure transitions of a 16-bit lock word.
//!
//! All of them are try-locks: a call that does not get one fails with a BUSY
//! status. Three kinds exist (`tdx_locks.h` of the published source):
//!
//! * *sharex*: bit 0 exclusive, bits 15:1 count of sharers;
//! * *host-priority sharex*: bit 0 exclusive, bit 1 host priority, bits 15:2
//!   count. A host call that fails leaves the priority flag behind; while it
//!   is set no guest call gets the lock; a host call that succeeds clears it;
//! * the *entry lock* of an S-EPT entry: one bit and a priority flag in the
//!   entry (see [`crate::sept`]).
//!
//! A shared attempt on an exclusively held lock fails but leaves the count
//! incremented until the exclusive holder lets go, which resets it. That is
//! what the real one does, and it is visible in memory.

use crate::status::{OPERAND_BUSY, OPERAND_BUSY_HOST_PRIORITY};

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Together with other sharers.
    Shared,
    /// Alone.
    Exclusive,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A SEAMCALL of the host.
    Host,
    /// A TDCALL of a guest.
    Guest,
}

/// The new lock word and whether the lock was taken (otherwise the BUSY status
/// without an operand).
pub type Step = (u16, Result<(), u64>);

const EX: u16 = 1;
const ONE: u16 = 2;
const HP: u16 = 2;
const HP_ONE: u16 = 4;

/// Tries to take a sharex lock.
pub fn take(word: u16, mode: Mode) -> Step {
    match mode {
        Mode::Shared => (
            word.wrapping_add(ONE),
            if word & EX == 0 {
                Ok(())
            } else {
                Err(OPERAND_BUSY)
            },
        ),
        Mode::Exclusive if word == 0 => (EX, Ok(())),
        Mode::Exclusive => (word, Err(OPERAND_BUSY)),
    }
}

/// Releases a sharex lock.
#[must_use]
pub fn release(word: u16, mode: Mode) -> u16 {
    match mode {
        Mode::Shared => word.wrapping_sub(ONE),
        Mode::Exclusive => 0,
    }
}

/// Tries to take a host-priority sharex lock.
pub fn hp_take(word: u16, mode: Mode, side: Side) -> Step {
    match (mode, side) {
        (Mode::Shared, Side::Guest) if word & HP != 0 => (word, Err(OPERAND_BUSY_HOST_PRIORITY)),
        (Mode::Shared, Side::Guest) if word & EX != 0 => {
            (word.wrapping_add(HP_ONE), Err(OPERAND_BUSY))
        }
        (Mode::Shared, Side::Host) if word & EX != 0 => {
            (word.wrapping_add(HP_ONE) | HP, Err(OPERAND_BUSY))
        }
        (Mode::Shared, _) => (word.wrapping_add(HP_ONE) & !HP, Ok(())),
        (Mode::Exclusive, _) if word == 0 => (EX, Ok(())),
        (Mode::Exclusive, Side::Host) if word == HP => (EX, Ok(())),
        (Mode::Exclusive, Side::Host) => (word | HP, Err(OPERAND_BUSY)),
        (Mode::Exclusive, Side::Guest) if word == HP => (word, Err(OPERAND_BUSY_HOST_PRIORITY)),
        (Mode::Exclusive, Side::Guest) => (word, Err(OPERAND_BUSY)),
    }
}

/// Turns the caller's shared hold of a host-priority lock into an exclusive
/// one.
pub fn hp_promote(word: u16) -> Step {
    if word & !HP == HP_ONE {
        (EX, Ok(()))
    } else {
        (word | HP, Err(OPERAND_BUSY))
    }
}

/// Releases a host-priority sharex lock. The priority flag survives.
#[must_use]
pub fn hp_release(word: u16, mode: Mode) -> u16 {
    match mode {
        Mode::Shared => word.wrapping_sub(HP_ONE),
        Mode::Exclusive => word & HP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Exclusive, Shared};
    use Side::{Guest, Host};

    #[test]
    fn sharex_table() {
        for (word, mode, new, ok) in [
            (0, Shared, 2, true),
            (2, Shared, 4, true),
            (1, Shared, 3, false),
            (0, Exclusive, 1, true),
            (2, Exclusive, 2, false),
            (1, Exclusive, 1, false),
        ] {
            let (n, r) = take(word, mode);
            assert_eq!((n, r.is_ok()), (new, ok), "{word:#x} {mode:?}");
        }
        assert_eq!(release(3, Exclusive), 0);
        assert_eq!(release(4, Shared), 2);
    }

    #[test]
    fn host_priority_table() {
        let busy = Err(OPERAND_BUSY);
        let prio = Err(OPERAND_BUSY_HOST_PRIORITY);
        for (word, mode, side, new, out) in [
            (0, Shared, Host, 4, Ok(())),
            (2, Shared, Host, 4, Ok(())),
            (6, Shared, Host, 8, Ok(())),
            (1, Shared, Host, 7, busy),
            (0, Shared, Guest, 4, Ok(())),
            (2, Shared, Guest, 2, prio),
            (3, Shared, Guest, 3, prio),
            (1, Shared, Guest, 5, busy),
            (0, Exclusive, Host, 1, Ok(())),
            (2, Exclusive, Host, 1, Ok(())),
            (4, Exclusive, Host, 6, busy),
            (1, Exclusive, Host, 3, busy),
            (0, Exclusive, Guest, 1, Ok(())),
            (2, Exclusive, Guest, 2, prio),
            (4, Exclusive, Guest, 4, busy),
        ] {
            assert_eq!(
                hp_take(word, mode, side),
                (new, out),
                "{word:#x} {mode:?} {side:?}"
            );
        }
        assert_eq!(hp_release(7, Exclusive), 2);
        assert_eq!(hp_release(6, Shared), 2);
        assert_eq!(hp_promote(4), (1, Ok(())));
        assert_eq!(hp_promote(6), (1, Ok(())));
        assert_eq!(hp_promote(8), (10, busy));
    }
}
