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
use privmemfd_kernel::mm::folio::Locked;

/// See the module documentation.
pub(crate) struct Software;

impl Backend for Software {
    const ID: BackendId = BackendId::Software;

    fn transfer(&self, dst: &Locked, src: &Locked) -> Result<(), Refusal> {
        if !src.has_content() {
            return Ok(());
        }
        dst.copy_from(src).map_err(|e| match e {
            e if e == EHWPOISON => Refusal::Poison,
            _ => Refusal::Backend,
        })
    }
}
