// SPDX-License-Identifier: GPL-2.0

//! KUnit: the transaction, with guests and backends that fail where a real one seldom does.

use super::{
    Cause,
    Guests,
    Plan,
    Refusal, //
};
use crate::{
    backend::{
        software::Software,
        Backend,
        BackendId, //
    },
    file::{
        self,
        PrivMem, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};
use privmemfd_kernel::{
    fs::private_file::{
        Migration,
        PrivateFile,
        TestFile, //
    },
    kvm::{
        InPlace,
        Move,
        Origin,
        Quiesced,
        KVM, //
    },
    mm::{
        folio::{
            Folio,
            LockedFolio,
            NewFolio, //
        },
        mapping::{
            alloc_folios,
            Held,
            Mobility,
            Node,
            CHUNK, //
        }, //
    }, //
};

const OLD: u8 = 0xa5;
const NEW: u8 = 0x3c;

/// A file of `pages` pages, all with content [`OLD`].
fn file(pages: usize) -> Result<TestFile<PrivMem>> {
    let size = (pages * PAGE_SIZE) as u64;
    let file = TestFile::new(file::create(size, Mobility::Movable, Node::Any)?)?;
    for index in 0..pages {
        let folio = file::get_folio(&file, index)?;
        folio.test_fill_content(OLD);
    }
    Ok(file)
}

/// The folio at `index` and one to take its place, with content [`NEW`].
fn pair(file: &TestFile<PrivMem>, index: usize) -> Result<(LockedFolio, NewFolio)> {
    let src = file.mapping().lock_folio(index).ok_or(ENOENT)?;
    let mut dst = None;
    alloc_folios(Mobility::Movable, Node::Any, 1, |folio| dst = Some(folio))?;
    let dst = dst.ok_or(ENOMEM)?;
    dst.test_fill(NEW);
    Ok((src, dst))
}

/// How the move of page 0 of a file has ended. The folios are unlocked before the file goes.
struct Moved {
    outcome: Result<(), Refusal>,
    src: LockedFolio,
    dst: NewFolio,
    file: TestFile<PrivMem>,
}

/// Moves page 0 of a new file.
fn move_one(guests: &impl Guests, backend: &impl Backend) -> Result<Moved> {
    let file = file(1)?;
    let (mut src, mut dst) = pair(&file, 0)?;
    let mut outcome = Err(Refusal::NoMemory);
    {
        let held = file.mapping().lock_shared();
        let mut moves = [Move::new(&mut src, &mut dst)];
        Plan::new(&mut moves, Cause::Request).run(&held, guests, backend, |_, how| outcome = how);
    }
    Ok(Moved {
        outcome,
        src,
        dst,
        file,
    })
}

/// Page frame that page 0 of the file has now.
fn pfn_now(file: &TestFile<PrivMem>) -> Option<usize> {
    let mut pfn = None;
    let found = file.mapping().for_each_folio(0..1, |_, folio| {
        pfn = Some(folio.pfn());
        Ok(())
    });
    found.ok().and(pfn)
}

/// Nobody uses the pages.
struct NoGuests;

impl Guests for NoGuests {
    fn quiesce<O: Origin>(&self, moves: &mut [Move<'_, O>], _held: &impl Held) -> Result {
        moves.iter_mut().for_each(|mv| mv.test_end(0));
        Ok(())
    }
}

/// Guests that cannot be stopped at all.
struct Unstoppable(Error);

impl Guests for Unstoppable {
    fn quiesce<O: Origin>(&self, _moves: &mut [Move<'_, O>], _held: &impl Held) -> Result {
        Err(self.0)
    }
}

/// Guests that give each move of a batch its own result, as KVM does.
struct Each<'a>(&'a [i32]);

impl Guests for Each<'_> {
    fn quiesce<O: Origin>(&self, moves: &mut [Move<'_, O>], _held: &impl Held) -> Result {
        for (mv, result) in moves.iter_mut().zip(self.0) {
            mv.test_end(*result);
        }
        Ok(())
    }
}

/// Copies, then finds that the memory has failed.
struct FailsLate;

impl Backend for FailsLate {
    const ID: BackendId = BackendId::Software;

    fn transfer<O: Origin>(&self, page: &mut Quiesced<'_, O>) -> Result<(), Refusal> {
        Software.transfer(page)?;
        Err(Refusal::Poison)
    }
}

/// Must not be asked.
struct Untouched;

impl Backend for Untouched {
    const ID: BackendId = BackendId::Software;

    fn transfer<O: Origin>(&self, _page: &mut Quiesced<'_, O>) -> Result<(), Refusal> {
        Err(Refusal::Backend)
    }
}

#[kunit_tests(privmemfd_relocate)]
mod transaction {
    use super::*;

    #[test]
    fn content_moves_and_the_old_page_is_erased() -> Result {
        let moved = move_one(&NoGuests, &Software)?;
        assert_eq!(moved.outcome, Ok(()));
        assert_eq!(pfn_now(&moved.file), Some(moved.dst.pfn()));
        assert!(moved.dst.has_content());
        assert!(moved.dst.test_all(OLD));
        assert!(moved.src.test_all(0));
        Ok(())
    }

    #[test]
    fn a_page_without_content_moves_without_a_copy() -> Result {
        let file = TestFile::<PrivMem>::new(file::create(
            PAGE_SIZE as u64,
            Mobility::Movable,
            Node::Any,
        )?)?;
        drop(file::get_folio(&file, 0)?);
        let (mut src, mut dst) = pair(&file, 0)?;
        let mut outcome = Err(Refusal::NoMemory);
        {
            let held = file.mapping().lock_shared();
            let mut moves = [Move::new(&mut src, &mut dst)];
            Plan::new(&mut moves, Cause::Request)
                .run(&held, &NoGuests, &Software, |_, how| outcome = how);
        }
        assert_eq!(outcome, Ok(()));
        assert_eq!(pfn_now(&file), Some(dst.pfn()));
        assert!(!dst.has_content());
        assert!(dst.test_all(NEW));
        Ok(())
    }

    #[test]
    fn guests_that_do_not_stop_leave_everything_as_it_was() -> Result {
        for (errno, reason) in [(EBUSY, Refusal::Guest), (EAGAIN, Refusal::Busy)] {
            let moved = move_one(&Unstoppable(errno), &Untouched)?;
            assert_eq!(moved.outcome, Err(reason));
            assert_eq!(pfn_now(&moved.file), Some(moved.src.pfn()));
            assert!(moved.src.test_all(OLD));
            assert!(moved.dst.test_all(NEW));
        }
        Ok(())
    }

    #[test]
    fn a_failed_copy_keeps_the_old_page_and_erases_the_new() -> Result {
        let moved = move_one(&NoGuests, &FailsLate)?;
        assert_eq!(moved.outcome, Err(Refusal::Poison));
        assert_eq!(pfn_now(&moved.file), Some(moved.src.pfn()));
        assert!(moved.src.test_all(OLD));
        assert!(moved.dst.test_all(0));
        Ok(())
    }

    #[test]
    fn a_withdrawn_page_leaves_the_file_and_is_not_erased() -> Result {
        let file = file(1)?;
        let (mut src, mut dst) = pair(&file, 0)?;
        src.test_set_kept(true);
        let migrated = PrivMem::migrate(&file, &mut Migration::test_new(&mut src, &mut dst));
        let new_pfn = pfn_now(&file);
        let again = file::get_folio(&file, 0).err();
        // The file goes when none of its folios is locked.
        let new: ARef<Folio> = (&**dst).into();
        drop(dst);
        let [src, dst] = [src.unlock(), new];
        drop(file);
        let [src, dst] = [src, dst].map(Folio::lock);
        src.test_set_kept(false);
        assert_eq!(migrated, Err(EHWPOISON));
        assert_eq!(new_pfn, None);
        assert_eq!(again, Some(EHWPOISON));
        assert!(src.test_all(OLD));
        assert!(dst.test_all(NEW));
        Ok(())
    }

    #[test]
    fn moves_that_are_not_of_the_file_are_refused() -> Result {
        let (ours, other) = (file(2)?, file(1)?);
        let [mut one, mut two] = [pair(&ours, 0)?, pair(&ours, 1)?];
        let mut foreign = pair(&other, 0)?;
        {
            let wrong = other.mapping().lock_shared();
            let mut moves = [Move::<'_, InPlace>::new(&mut one.0, &mut one.1)];
            assert_eq!(KVM.relocate(&*ours, &mut moves, &wrong), Err(EINVAL));
            assert_eq!(KVM.invalidate(&*ours, 0..2, &wrong).err(), Some(EINVAL));
        }
        let held = ours.mapping().lock_shared();
        let relocate = |moves: &mut [Move<'_, InPlace>]| KVM.relocate(&*ours, moves, &held);
        assert_eq!(
            relocate(&mut [Move::new(&mut foreign.0, &mut one.1)]),
            Err(EINVAL)
        );
        {
            let mut moves = [
                Move::new(&mut two.0, &mut two.1),
                Move::new(&mut one.0, &mut one.1),
            ];
            assert_eq!(relocate(&mut moves), Err(EINVAL));
            assert!(moves.iter_mut().all(|mv| mv.take().is_err()));
        }
        assert_eq!(relocate(&mut [Move::new(&mut one.0, &mut one.1)]), Ok(()));
        Ok(())
    }

    #[test]
    fn a_folio_is_moved_to_once() -> Result {
        let file = file(2)?;
        let [mut one, mut two] = [pair(&file, 0)?, pair(&file, 1)?];
        let held = file.mapping().lock_shared();
        {
            let mut moves = [Move::<'_, InPlace>::new(&mut one.0, &mut one.1)];
            moves[0].test_end(1);
            moves[0].take()?.commit()?;
        }
        assert_eq!(pfn_now(&file), Some(one.1.pfn()));
        {
            // The same move, asked for twice.
            let mut moves = [Move::<'_, InPlace>::new(&mut two.0, &mut two.1)];
            moves[0].test_end(0);
            let mut late = moves[0].take()?;
            let mut copied = {
                moves[0].test_end(0);
                moves[0].take()?
            };
            copied.copy()?;
            moves[0].test_end(1);
            moves[0].take()?.commit()?;
            assert_eq!(late.copy(), Err(EINVAL));
            assert_eq!(copied.commit(), Err(EINVAL));
            drop(late);
        }
        assert!(two.1.test_all(OLD));
        drop(two);
        let mut two = pair(&file, 1)?;
        let mut again = [Move::<'_, InPlace>::new(&mut two.0, &mut one.1)];
        assert_eq!(KVM.relocate(&*file, &mut again, &held), Err(EINVAL));

        two.1.set_failed();
        if !two.1.is_unusable() {
            // This kernel does not deal with failing memory.
            return Ok(());
        }
        let mut failed = [Move::<'_, InPlace>::new(&mut two.0, &mut two.1)];
        let refused = KVM.relocate(&*file, &mut failed, &held);
        two.1.test_unset_failed();
        assert_eq!(refused, Err(EINVAL));
        Ok(())
    }

    #[test]
    fn what_the_tdx_module_keeps_is_not_copied() -> Result {
        let file = file(1)?;
        let (mut src, mut dst) = pair(&file, 0)?;
        let mut moves = [Move::<'_, InPlace>::new(&mut src, &mut dst)];
        moves[0].test_end(0);
        let mut page = moves[0].take()?;
        moves[0].src().test_set_kept(true);
        let copied = page.copy();
        moves[0].src().test_set_kept(false);
        assert_eq!(copied, Err(EHWPOISON));
        assert_eq!(page.commit(), Err(EINVAL));
        assert!(dst.test_all(NEW));
        Ok(())
    }

    #[test]
    fn what_was_not_copied_is_not_committed() -> Result {
        let file = file(1)?;
        let (mut src, mut dst) = pair(&file, 0)?;
        let mut moves = [Move::<'_, InPlace>::new(&mut src, &mut dst)];
        assert!(moves[0].take().is_err());
        moves[0].test_end(0);
        assert_eq!(moves[0].take()?.commit(), Err(EINVAL));
        assert!(moves[0].take().is_err());
        assert_eq!(pfn_now(&file), Some(src.pfn()));
        assert!(src.test_all(OLD));
        Ok(())
    }

    #[test]
    fn nothing_is_beyond_the_end() -> Result {
        let file = file(1)?;
        let beyond = file
            .mapping()
            .alloc_or_lock_folio(1, Mobility::Movable, Node::Any);
        assert_eq!(beyond.err(), Some(EINVAL));
        assert_eq!(file.mapping().nr_pages(), 1);
        Ok(())
    }

    #[test]
    fn a_range_goes_by_large_pages_of_what_is_there() -> Result {
        let full = file(2 * CHUNK + 1)?;
        let mut parts = full.mapping().chunks(1..2 * CHUNK + 1);
        assert_eq!(parts.next(), Some(1..CHUNK + 1));
        assert_eq!(parts.next(), Some(CHUNK + 1..2 * CHUNK + 1));
        assert_eq!(parts.next(), None);

        let size = (8 * CHUNK * PAGE_SIZE) as u64;
        let sparse = TestFile::<PrivMem>::new(file::create(size, Mobility::Movable, Node::Any)?)?;
        let mapping = sparse.mapping();
        for index in [3, CHUNK + 3, 4 * CHUNK] {
            drop(mapping.alloc_or_lock_folio(index, Mobility::Movable, Node::Any)?);
        }
        let mut parts = mapping.chunks(0..8 * CHUNK);
        assert_eq!(parts.next(), Some(0..CHUNK + 3));
        assert_eq!(parts.next(), Some(CHUNK + 3..2 * CHUNK + 3));
        assert_eq!(parts.next(), Some(2 * CHUNK + 3..5 * CHUNK));
        assert_eq!(parts.next(), Some(5 * CHUNK..8 * CHUNK));
        assert_eq!(parts.next(), None);
        Ok(())
    }

    #[test]
    fn what_the_hardware_has_moved_is_not_copied() -> Result {
        let moved = move_one(&Each(&[1]), &Untouched)?;
        assert_eq!(moved.outcome, Ok(()));
        assert_eq!(pfn_now(&moved.file), Some(moved.dst.pfn()));
        assert!(moved.dst.test_all(NEW));
        assert!(moved.src.test_all(0));
        Ok(())
    }

    #[test]
    fn pages_of_a_batch_end_each_in_their_own_way() -> Result {
        let file = file(3)?;
        let mut pairs = [pair(&file, 0)?, pair(&file, 1)?, pair(&file, 2)?];
        let mut outcomes = [Err(Refusal::NoMemory); 3];
        {
            let held = file.mapping().lock_shared();
            let mut moves = pairs.each_mut().map(|(src, dst)| Move::new(src, dst));
            let answers = [0, EBUSY.to_errno(), EAGAIN.to_errno()];
            let guests = Each(&answers);
            Plan::new(&mut moves, Cause::Request).run(&held, &guests, &Software, |page, how| {
                outcomes[page.index] = how
            });
        }
        assert_eq!(outcomes[0], Ok(()));
        assert_eq!(outcomes[1], Err(Refusal::Guest));
        assert_eq!(outcomes[2], Err(Refusal::Busy));
        assert!(pairs[0].1.test_all(OLD));
        assert!(pairs[1].0.test_all(OLD));
        assert!(pairs[2].0.test_all(OLD));
        Ok(())
    }
}
