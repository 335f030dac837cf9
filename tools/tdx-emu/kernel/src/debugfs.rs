// SPDX-License-Identifier: GPL-2.0

//! The files in debugfs, in `tdxemu/`. See `README.md` for what is in them.

use crate::{
    calllog::LOG,
    counters::COUNTERS,
    emulator::{
        self,
        module,
        BURST_US, //
    },
    faults,
    owned::OWNED, //
};
use core::sync::atomic::Ordering::Relaxed;
use kernel::{
    debugfs::Scope,
    fmt,
    prelude::*,
    uaccess::UserSliceReader, //
};

/// Most that can be written at a time.
const MAX_WRITE: usize = 4096;
/// Longest burst: a guest keeps interrupts off.
const MAX_BURST_US: u32 = 1_000_000;

/// Gives `f` what user space writes.
fn text(reader: &mut UserSliceReader, f: impl FnOnce(&str) -> Result) -> Result {
    let len = reader.len();
    if len > MAX_WRITE {
        return Err(E2BIG);
    }
    let mut buf = KVVec::from_elem(0u8, len, GFP_KERNEL)?;
    reader.read_slice(&mut buf)?;
    let text = core::str::from_utf8(&buf).map_err(|_| EINVAL)?;
    f(text.trim())
}

fn state((): &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let m = module();
    let sys = m.sys_view();
    let name = [
        "INIT_PENDING",
        "INIT_DONE",
        "CONFIG_DONE",
        "READY",
        "SHUTDOWN",
    ];
    let name = match m.is_dead() {
        true => "DEAD",
        false => name.get(sys.state as usize).copied().unwrap_or("?"),
    };
    let c = &m.config;
    writeln!(f, "module {name}")?;
    writeln!(f, "lps {} initialized {}", m.lps(), sys.lps_initialized)?;
    writeln!(f, "packages {} keyed {}", c.pkgs, sys.packages_keyed)?;
    writeln!(
        f,
        "keyid shift {} bits {} first_private {} global {}",
        c.hkid_shift(),
        c.hkid_bits,
        c.first_private_hkid,
        sys.global_hkid
    )?;
    writeln!(f, "cipher {}", u8::from(c.cipher))?;
    writeln!(f, "tagged {:#x}", m.machine.tagged())?;
    for (base, size) in m.machine.ram().iter().filter(|r| r.1 != 0) {
        writeln!(f, "cmr base {base:#x} size {size:#x}")?;
    }
    for (base, size, done) in (0..sys.tdmrs).filter_map(|i| m.tdmr_view(i)) {
        writeln!(
            f,
            "tdmr base {base:#x} size {size:#x} initialized {:#x}",
            done - base
        )?;
    }
    OWNED.tds().try_for_each(|(tdr, hkid)| td(f, tdr, hkid))
}

fn td(f: &mut fmt::Formatter<'_>, tdr: u64, hkid: u64) -> fmt::Result {
    let m = module();
    let t = m.td_view(tdr);
    writeln!(
        f,
        "td {tdr:#x} hkid {hkid} lifecycle {} op_state {} fatal {} tdcx {} pages {} epoch {} \
         refcounts {},{} vcpus {} associated {}",
        t.lifecycle,
        t.op_state,
        t.fatal,
        t.num_tdcx,
        t.chldcnt,
        t.epoch,
        t.ref0,
        t.ref1,
        t.num_vcpus,
        t.num_assoc
    )?;
    for tdvpr in OWNED.vcpus(tdr) {
        let v = m.vcpu_view(tdr, tdvpr);
        let lp = if v.lp >> 32 == 0 { v.lp as i32 } else { -1 };
        writeln!(
            f,
            "vcpu {tdvpr:#x} td {tdr:#x} index {} state {} lp {lp} epoch {} stuck {}",
            v.index, v.state, v.epoch, v.violations
        )?;
    }
    Ok(())
}

fn violations((): &(), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let m = module();
    let (count, last) = m.violation().map_or((0, 0), |v| (v.count, v.pa));
    writeln!(f, "stray_writes {count}\nlast_stray_write {last:#x}")?;
    writeln!(f, "outside_ram {}", m.machine.astray())?;
    writeln!(f, "dead {}", u8::from(m.is_dead()))
}

/// Makes the files.
pub(crate) fn show() -> impl PinInit<Scope<()>> {
    type F<'a, 'b> = &'a mut fmt::Formatter<'b>;
    type R<'a> = &'a mut UserSliceReader;

    Scope::dir((), c"tdxemu", |nothing: &(), dir| {
        dir.read_write_callback_file(c"state", nothing, &state, &|(): &(), r: R<'_>| {
            text(r, |t| match t {
                "reset" => emulator::reset(),
                _ => Err(EINVAL),
            })
        });
        dir.read_write_callback_file(
            c"counters",
            nothing,
            &|(): &(), f: F<'_, '_>| COUNTERS.show(f),
            &|(): &(), r: R<'_>| {
                text(r, |_| {
                    COUNTERS.clear();
                    Ok(())
                })
            },
        );
        dir.read_write_callback_file(
            c"guest",
            nothing,
            &|(): &(), f: F<'_, '_>| COUNTERS.guest.show(f),
            &|(): &(), r: R<'_>| {
                text(r, |_| {
                    COUNTERS.guest.clear();
                    Ok(())
                })
            },
        );
        dir.read_write_callback_file(
            c"faults",
            nothing,
            &|(): &(), f: F<'_, '_>| faults::show(f),
            &|(): &(), r: R<'_>| text(r, faults::apply),
        );
        dir.read_write_callback_file(
            c"log",
            nothing,
            &|(): &(), f: F<'_, '_>| LOG.show(f),
            &|(): &(), r: R<'_>| {
                text(r, |t| {
                    match t {
                        "on" => LOG.set_on(true),
                        "off" => LOG.set_on(false),
                        "clear" => LOG.clear(),
                        _ => return Err(EINVAL),
                    }
                    Ok(())
                })
            },
        );
        dir.read_callback_file(c"violations", nothing, &violations);
        dir.read_write_callback_file(
            c"burst_us",
            nothing,
            &|(): &(), f: F<'_, '_>| writeln!(f, "{}", BURST_US.load(Relaxed)),
            &|(): &(), r: R<'_>| text(r, |t| set_burst(t.parse().map_err(|_| EINVAL)?)),
        );
        dir.read_callback_file(c"keyid_shift", nothing, &|(): &(), f: F<'_, '_>| {
            writeln!(f, "{}", module().config.hkid_shift())
        });
    })
}

/// Sets how long a guest may stay.
///
/// # Errors
///
/// `EINVAL`: too long.
pub(crate) fn set_burst(us: u32) -> Result {
    if us > MAX_BURST_US {
        return Err(EINVAL);
    }
    BURST_US.store(us, Relaxed);
    Ok(())
}
