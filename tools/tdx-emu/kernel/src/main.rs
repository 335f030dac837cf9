// SPDX-License-Identifier: GPL-2.0

//! tdxemu: a TDX module for CPUs without TDX.
//!
//! SEAMCALL is an invalid opcode on a CPU that does not know it. This module sees the trap before
//! the kernel's exception table does, and answers as the Intel TDX module would: the crate
//! `tdx_emu_model` on the memory of the machine. In a TD runs a guest that is built in.
//!
//! ```text
//! SEAMCALL -> #UD -> glue.c (die chain) -> emulator -> model -> host (direct map)
//! ```
//!
//! It is for testing hypervisors, and protects nothing.

mod calllog;
mod counters;
mod debugfs;
mod emulator;
mod faults;
mod ffi;
mod glue;
mod host;
mod owned;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

use host::Host;
use kernel::{
    debugfs::Scope,
    prelude::*, //
};
use tdx_emu_model::{
    config::MAX_LPS,
    Config, //
};

module! {
    type: TdxEmuModule,
    name: "tdxemu",
    authors: ["The privmemfd developers"],
    description: "Answers SEAMCALL as the Intel TDX module would, for tests on any CPU",
    license: "GPL",
    params: {
        cipher: bool {
            default: true,
            description: "Encrypt the memory of TDs; off: the host sees their content",
        },
        tags: u32 {
            default: 0,
            description: "MiB for integrity tags, which find writes of the host to memory of TDs; 1 MiB for 32 MiB of RAM, from the lowest address on",
        },
        burst_us: u32 {
            default: 200,
            description: "Longest stay in the guest per TDH.VP.ENTER, with interrupts off",
        },
        hkid_bits: u32 {
            default: 6,
            description: "KeyID bits above the physical addresses, 1 to 7; half of the KeyIDs are private",
        },
    },
}

/// The loaded module. Fields are dropped in this order.
#[pin_data]
struct TdxEmuModule {
    #[pin]
    _debugfs: Scope<()>,
    _running: emulator::Running,
}

/// Widest physical address.
const MAX_PA: u32 = 52;

fn platform(host: &Host) -> Result<Config> {
    let hkid_bits = *module_parameters::hkid_bits.value_ref();
    let phys_bits = glue::phys_bits();
    let max_pa = phys_bits.saturating_add(hkid_bits);
    if !(1..=7).contains(&hkid_bits) || max_pa > MAX_PA {
        pr_err!("no room for {hkid_bits} KeyID bits above {phys_bits} address bits\n");
        return Err(EINVAL);
    }
    let lps = glue::cpus();
    if lps > MAX_LPS {
        pr_err!("{lps} CPUs, {MAX_LPS} are the most\n");
        return Err(E2BIG);
    }
    Ok(Config {
        max_pa,
        hkid_bits,
        first_private_hkid: 1 << (hkid_bits - 1),
        lps,
        cmrs: *host.ram(),
        tsc_hz: glue::tsc_khz() * 1000,
        cipher: *module_parameters::cipher.value_ref(),
        ..Config::new()
    })
}

fn start() -> Result<emulator::Running> {
    let host = Host::probe(*module_parameters::tags.value_ref())?;
    let config = platform(&host)?;
    debugfs::set_burst(*module_parameters::burst_us.value_ref())?;
    pr_warn!("*** SEAMCALL is EMULATED from now on: TDs are not protected from anything ***\n");
    pr_info!(
        "{} CPUs, KeyIDs {}..{} at bit {}, cipher {}, tags for {} MiB of RAM\n",
        config.lps,
        config.first_private_hkid,
        config.hkids() - 1,
        config.hkid_shift(),
        if config.cipher { "on" } else { "off" },
        host.tagged() >> 20
    );
    // SAFETY: The module is being loaded: nothing else uses it, and this is called once.
    unsafe {
        emulator::configure(host, config);
    }
    // SAFETY: As above.
    unsafe { emulator::Running::start() }
}

impl kernel::InPlaceModule for TdxEmuModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _running: start()?,
            _debugfs <- debugfs::show(),
        })
    }
}
