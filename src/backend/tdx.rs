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

use crate::refusal::Refusal;
use counters::Calls;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use privmemfd_kernel::{
    kvm::{
        GfnMove,
        Source,
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
        tdx::give(mv);
    }
    let batch = Batch {
        td,
        moves,
        calls: Calls::default(),
    };
    let result = protocol::relocate(&batch, td.runnable(), outcomes);
    batch.calls.count();
    let mut relocated = 0;
    for (mv, outcome) in moves.iter_mut().zip(outcomes.iter()) {
        let (result, src) = end(mv, *outcome);
        relocated += u64::from(result.is_ok());
        mv.set_result(result, src);
    }
    COUNTERS.relocated.add(relocated);
    result.map_err(|why| {
        COUNTERS.tds_lost.add(1);
        pr_err!(
            "the TD of TDR {:#x} with memory of file {} is lost: it must not run any more\n",
            td.tdr(),
            moves.first().map_or(0, file)
        );
        match why {
            protocol::TdLost::Dead => TdLost::Dead,
            protocol::TdLost::Broken => TdLost::Broken,
        }
    })
}

/// Deals with the old page of a move. Says what the host of the TD has to know of it.
///
/// A page that the TDX module, or a cache, may still write to is not touched: the host keeps it
/// until the TD is gone, in its file or not.
fn end(mv: &GfnMove<'_>, outcome: Outcome) -> (Result, Source) {
    let (result, src) = match outcome {
        Outcome::Moved => (Ok(()), Source::Settled),
        Outcome::MovedUnclean => (Ok(()), Source::Cached),
        Outcome::MovedElse => (Ok(()), Source::Owned),
        Outcome::Contended => (Err(Refusal::Busy.into()), Source::Settled),
        Outcome::Refused => (Err(Refusal::Guest.into()), Source::Settled),
        Outcome::Stuck => (Err(Refusal::Guest.into()), Source::Owned),
    };
    if src != Source::Settled {
        COUNTERS.pages_kept.add(1);
        pr_warn!(
            "page {:#x} of file {}, offset {:#x}, cannot be taken back from the TDX module before \
             its TD is gone\n",
            mv.src().pfn(),
            file(mv),
            mv.src().index() * PAGE_SIZE
        );
    }
    (result, src)
}

/// Names the file of a page that moves, by its inode, for people and `privmemctl why`.
fn file(mv: &GfnMove<'_>) -> u64 {
    mv.src().ino().unwrap_or(0)
}

/// Pages of one TD, as the protocol knows them: by number.
struct Batch<'a, 'm> {
    td: &'a Td,
    moves: &'a [GfnMove<'m>],
    calls: Calls,
}

impl Batch<'_, '_> {
    /// Counts the call and makes its result the protocol's.
    fn answer(&self, leaf: Leaf, output: Output) -> Answer {
        self.calls.one_more(leaf);
        Answer {
            status: output.status,
            rcx: output.rcx,
            rdx: output.rdx,
        }
    }
}

impl protocol::Td for Batch<'_, '_> {
    fn block(&self, nr: usize) -> Answer {
        self.answer(
            Leaf::MemRangeBlock,
            tdx::mem_range_block(self.td, &self.moves[nr]),
        )
    }

    fn track(&self) -> Answer {
        self.answer(Leaf::MemTrack, tdx::mem_track(self.td))
    }

    fn relocate(&self, nr: usize) -> Answer {
        self.answer(
            Leaf::MemPageRelocate,
            tdx::mem_page_relocate(self.td, &self.moves[nr]),
        )
    }

    fn unblock(&self, nr: usize) -> Answer {
        let answer = self.answer(
            Leaf::MemRangeUnblock,
            tdx::mem_range_unblock(self.td, &self.moves[nr]),
        );
        if answer.verdict() == Verdict::Done {
            COUNTERS.rollbacks.add(1);
        }
        answer
    }

    fn wbinvd(&self, nr: usize) -> Answer {
        self.answer(
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
