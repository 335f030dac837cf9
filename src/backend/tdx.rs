// SPDX-License-Identifier: GPL-2.0

//! The TDX backend: the TDX module moves the page.
//!
//! For memory of TDs, which the host cannot copy. Whoever owns the TD (KVM) asks for it, in answer
//! to the engine's wish that guests be kept off a page; the engine then finds the page moved:
//!
//! ```text
//! relocate -> KVM (mmu_lock) -> here -> protocol -> SEAMCALL
//! ```
//!
//! Nothing here depends on which TDX module answers.

mod counters;
mod protocol;
mod status;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub(crate) use counters::COUNTERS;

use crate::relocate::Refusal;
use kernel::prelude::*;
use privmemfd_kernel::{
    kvm::{
        GfnMove,
        Td,
        TdLost, //
    },
    tdx::{
        self,
        Leaf,
        Output, //
    }, //
};
use protocol::{
    Outcome,
    BATCH, //
};
use status::{
    Answer,
    Verdict, //
};

const _: () = assert!(GfnMove::BATCH <= BATCH);

/// Moves pages of a TD, [`GfnMove::BATCH`] at most. Context: that of `struct kvm_gmem_provider_ops.relocate_td`.
///
/// # Errors
///
/// The TD must not run again.
pub(crate) fn relocate(td: &Td, moves: &mut [GfnMove<'_>]) -> Result<(), TdLost> {
    let mut outcomes = [Outcome::Refused; GfnMove::BATCH];
    let outcomes = &mut outcomes[..moves.len()];
    for mv in moves.iter() {
        tdx::give(mv.dst());
    }
    let result = protocol::relocate(&Batch { td, moves }, td.runnable(), outcomes);
    for (mv, outcome) in moves.iter_mut().zip(outcomes.iter()) {
        mv.set_result(end(mv, *outcome));
    }
    result.map_err(|protocol::TdLost| {
        COUNTERS.tds_lost.add(1);
        pr_err!(
            "the TD of TDR {:#x} is lost: it must not run any more\n",
            td.tdr()
        );
        TdLost
    })
}

/// Deals with the old page of a move.
fn end(mv: &GfnMove<'_>, outcome: Outcome) -> Result {
    match outcome {
        Outcome::Moved => {
            tdx::take_back(mv.src());
            COUNTERS.relocated.add(1);
            Ok(())
        }
        Outcome::MovedLeaked => {
            leak(mv);
            COUNTERS.relocated.add(1);
            Ok(())
        }
        Outcome::Contended => Err(Refusal::Busy.into()),
        Outcome::Refused => Err(Refusal::Guest.into()),
        Outcome::Stuck => {
            leak(mv);
            Err(Refusal::Guest.into())
        }
    }
}

/// The TDX module, or a cache, may still write to the page: better no page than a corrupt one. It
/// may be in its file, and is not freed with it.
fn leak(mv: &GfnMove<'_>) {
    COUNTERS.pages_leaked.add(1);
    pr_err!(
        "page {:#x} cannot be taken back from the TDX module and is lost until the next boot\n",
        mv.src().pfn()
    );
    mv.src().quarantine();
}

/// Pages of one TD, as the protocol knows them: by number.
struct Batch<'a, 'm> {
    td: &'a Td,
    moves: &'a [GfnMove<'m>],
}

/// Counts the call and makes its result the protocol's.
fn answer(leaf: Leaf, output: Output) -> Answer {
    COUNTERS.calls(leaf).add(1);
    Answer {
        status: output.status,
        rcx: output.rcx,
        rdx: output.rdx,
    }
}

impl protocol::Td for Batch<'_, '_> {
    fn block(&self, nr: usize) -> Answer {
        answer(
            Leaf::MemRangeBlock,
            tdx::mem_range_block(self.td, &self.moves[nr]),
        )
    }

    fn track(&self) -> Answer {
        answer(Leaf::MemTrack, tdx::mem_track(self.td))
    }

    fn relocate(&self, nr: usize) -> Answer {
        answer(
            Leaf::MemPageRelocate,
            tdx::mem_page_relocate(self.td, &self.moves[nr]),
        )
    }

    fn unblock(&self, nr: usize) -> Answer {
        let answer = answer(
            Leaf::MemRangeUnblock,
            tdx::mem_range_unblock(self.td, &self.moves[nr]),
        );
        if answer.verdict() == Verdict::Done {
            COUNTERS.rollbacks.add(1);
        }
        answer
    }

    fn wbinvd(&self, nr: usize) -> Answer {
        answer(
            Leaf::PhymemPageWbinvd,
            tdx::phymem_page_wbinvd(self.td, &self.moves[nr]),
        )
    }

    fn old_page(&self, nr: usize) -> u64 {
        tdx::old_page(&self.moves[nr])
    }

    fn kick(&self) {
        COUNTERS.kicks.add(1);
        self.td.kick();
    }

    fn hold(&self) {
        COUNTERS.holds.add(1);
        self.td.hold();
    }

    fn release(&self) {
        self.td.release();
    }
}
