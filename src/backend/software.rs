// SPDX-License-Identifier: GPL-2.0

//! The software backend: the host copies.
//!
//! For VMs whose private memory the CPU does not protect (`KVM_X86_SW_PROTECTED_VM`).

use super::{
    Backend,
    BackendId, //
};
use crate::refusal::Refusal;
use kernel::prelude::*;
use privmemfd_kernel::kvm::{
    Origin,
    Quiesced, //
};

/// See the module documentation.
pub(crate) struct Software;

impl Backend for Software {
    const ID: BackendId = BackendId::Software;

    fn transfer<O: Origin>(&self, page: &mut Quiesced<'_, O>) -> Result<(), Refusal> {
        page.copy().map_err(|e| match e {
            e if e == EHWPOISON => Refusal::Poison,
            _ => Refusal::Backend,
        })
    }
}
