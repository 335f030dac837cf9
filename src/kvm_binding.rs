// SPDX-License-Identifier: GPL-2.0

//! Files as KVM sees them: what it asks of a provider.

use crate::{
    backend::tdx,
    file::{
        self,
        Attachment,
        PrivMem, //
    },
    module_parameters,
    stats::TOTALS, //
};
use core::ops::Range;
use kernel::{
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use privmemfd_kernel::{
    kvm::{
        Connection,
        GfnMove,
        NotConnected,
        Provider,
        ProviderTable,
        Td,
        TdLost,
        VmId,
        KVM, //
    },
    mm::{
        folio::LockedFolio,
        mapping::{
            Exclusive,
            Mobility,
            Node, //
        }, //
    },
    trace, //
};

static PROVIDER: ProviderTable<PrivMem> = ProviderTable::new(file::tables());

/// Offers our files to KVM. Without KVM everything but binding works.
pub(crate) fn connect() -> Option<Connection<PrivMem>> {
    match KVM.connect(&PROVIDER) {
        Ok(connection) => {
            pr_info!("KVM binding is on\n");
            return Some(connection);
        }
        Err(NotConnected::NoKvm) => {
            pr_warn!("KVM binding is off: kvm.ko is not loaded; load it before privmemfd.ko\n");
        }
        Err(NotConnected::NoInterface) => {
            pr_warn!(
                "KVM binding is off: this kvm.ko takes no provider of guest memory; \
                 build one with the patches of privmemfd\n"
            );
        }
        Err(NotConnected::Refused(e)) => {
            pr_warn!(
                "KVM binding is off: KVM has another provider, or its interface is of another \
                 version ({e:?})\n"
            );
        }
    }
    None
}

#[vtable]
impl Provider for PrivMem {
    fn get_folio(file: &Attachment, index: usize) -> Result<LockedFolio> {
        file::fault(file, index)
    }

    fn create_for_kvm(size: u64) -> Result<ARef<File>> {
        let file = file::create(size, Mobility::Movable, Node::Any)?;
        TOTALS.files_created_kvm.add(1);
        Ok(file)
    }

    fn serves_private() -> bool {
        module_parameters::serve_all.value()
    }

    fn relocate_td(td: &Td, moves: &mut [GfnMove<'_>]) -> Result<(), TdLost> {
        tdx::relocate(td, moves)
    }

    fn bound(file: &Attachment, vm: VmId, pages: Range<usize>) {
        TOTALS.slots_bound.add(1);
        trace::bind(file.mapping().ino(), vm, pages);
    }

    fn drop_kept(file: &Attachment, pages: Range<usize>, _held: &Exclusive<'_>) {
        file::drop_kept(file, pages);
    }

    fn unbound(file: &Attachment, vm: VmId, pages: Range<usize>) {
        TOTALS.slots_unbound.add(1);
        trace::unbind(file.mapping().ino(), vm, pages);
    }
}
