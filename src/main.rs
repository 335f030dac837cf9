// SPDX-License-Identifier: GPL-2.0

//! privmemfd: guest-private memory that the host can still move.
//!
//! A privmemfd is a file whose content no process on the host can read, write or map; a VM uses it
//! as guest_memfd. (What is not a TD's is still in the kernel's own memory, for root and a crash
//! dump to see: userspace-api.rst.) Data flows one way:
//!
//! ```text
//! mm core  ->  file/aops  -+
//!                          +->  relocate  ->  backend
//! ioctl    ->  file/ioctl -+       |
//!                                  +------->  file/guests  ->  KVM
//! KVM      ->  kvm_binding  ->  file
//! ```
//!
//! All unsafe code is in the crate `privmemfd_kernel` below this one, see its documentation for
//! the lock order.

#![forbid(unsafe_code)]

mod backend;
mod control;
mod counter;
mod file;
mod kvm_binding;
mod refusal;
mod relocate;
mod stats;
mod uapi;

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};
use privmemfd_kernel::{
    debugfs::Dir,
    fs::private_file::Registration,
    kvm::Connection,
    power::Watch,
    workqueue::Started, //
};

module! {
    type: PrivMemFdModule,
    name: "privmemfd",
    authors: ["The privmemfd developers"],
    description: "Guest-private memory that the host can still move",
    license: "GPL",
    params: {
        serve_all: bool {
            default: false,
            description: "Serve every KVM_CREATE_GUEST_MEMFD for private memory with movable memory, also for VMMs that do not ask for it",
        },
        batch: usize {
            default: 32,
            description: "Pages that move together, 1 to 512: more cost less each, and a vCPU that wants one of them waits longer (default 32)",
        },
    },
}

/// The loaded module.
///
/// Fields are dropped in this order: first no new file can be made, then work that was put off
/// ends, then the counters go. Files pin the module, so none exists by then; who looks at what is
/// left of one is waited for at the end.
#[pin_data]
struct PrivMemFdModule {
    _kvm: Option<Connection<file::PrivMem>>,
    #[pin]
    _device: MiscDeviceRegistration<control::Control>,
    _queue: Started,
    _hibernation: Watch,
    _debugfs: Dir,
    #[pin]
    _files: Registration<file::PrivMem>,
}

impl kernel::InPlaceModule for PrivMemFdModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _: {
                relocate::check_batch()?;
            },
            _files <- Registration::new(),
            _debugfs: stats::show(),
            _hibernation: Watch::start()?,
            _queue: file::start_queue()?,
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"privmemfd",
            }),
            // Last: KVM may ask for files at once.
            _kvm: kvm_binding::connect(),
        })
    }
}
