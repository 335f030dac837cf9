// SPDX-License-Identifier: GPL-2.0

//! `/dev/privmemfd`: where files are made without a VM.

use crate::{
    file,
    uapi, //
};
use kernel::{
    fs::{
        file::FileDescriptorReservation,
        File, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

/// An open `/dev/privmemfd`; has no state.
pub(crate) struct Control;

#[vtable]
impl MiscDevice for Control {
    type Ptr = ();

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result {
        Ok(())
    }

    fn ioctl(_device: (), _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::CREATE => {
                let request = uapi::Create::read(arg)?;
                let flags = if request.cloexec {
                    kernel::fs::file::flags::O_CLOEXEC
                } else {
                    0
                };
                let fd = FileDescriptorReservation::get_unused_fd_flags(flags)?;
                let file = file::create(request.size, request.mobility, request.node)?;
                let nr = fd.reserved_fd();
                fd.fd_install(file);
                Ok(isize::try_from(nr)?)
            }
            _ => Err(ENOTTY),
        }
    }
}
