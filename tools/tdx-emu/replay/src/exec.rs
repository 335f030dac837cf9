// SPDX-License-Identifier: GPL-2.0
//! Executes one line of a recording and compares its outcome.

use serde_json::Value;
use tdx_emu_model::locks::{Mode, Side};
use tdx_emu_model::pseudo::LockObj;
use tdx_emu_model::sept;
use tdx_emu_model::{GuestEvent, GuestOutcome, Outcome, PhysMem, Regs};

use crate::world::World;
use crate::Trouble;

type Res = Result<(), Trouble>;

fn differs<T>(what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Differs(what.into()))
}

/// A number, or a string that holds one.
fn number(v: &Value) -> Option<u64> {
    match v {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => match s.strip_prefix("0x") {
            Some(h) => u64::from_str_radix(h, 16).ok(),
            None => s.parse().ok(),
        },
        _ => None,
    }
}

fn field(v: &Value, name: &str) -> u64 {
    v.get(name).and_then(number).unwrap_or(0)
}

fn expect(what: &str, got: u64, want: u64) -> Res {
    if got == want {
        return Ok(());
    }
    differs(format!("{what}: model {got:#x}, recorded {want:#x}"))
}

/// Executes one line.
///
/// # Errors
/// The model answered something else than the recording says, or the line is
/// of an unknown kind.
pub fn line(w: &mut World, v: &Value) -> Res {
    let op = v["op"].as_str().unwrap_or("");
    let n = field(v, "n");
    let r = match op {
        "probe" => probe(w, v),
        "final" => final_dump(w, v),
        "HOSTFILL" => {
            let pa = field(&v["in"], "pa");
            for i in 0..512 {
                w.module.machine.write(pa + 8 * i, field(&v["in"], "qword"));
            }
            Ok(())
        }
        "TDPARAMS" => td_params(w, &v["in"]),
        "LOCK" | "UNLOCK" => lock(w, v, op == "LOCK"),
        "OPSTATE" => {
            w.module
                .set_op_state(field(&v["in"], "tdr"), field(&v["in"], "value"));
            Ok(())
        }
        "TDFATAL" => {
            w.module
                .set_fatal(field(&v["in"], "tdr"), field(&v["in"], "value"));
            Ok(())
        }
        "POKE_SEPT" => {
            let i = &v["in"];
            let level = field(i, "level") as u8;
            if w.module
                .poke_sept(field(i, "tdr"), field(i, "gpa"), level, field(i, "raw"))
            {
                Ok(())
            } else {
                differs("POKE_SEPT does not reach the entry")
            }
        }
        "INTR_PENDING" => {
            w.module
                .machine
                .set_interrupt(field(&v["in"], "value") != 0);
            Ok(())
        }
        "ADVANCE_TSC" => {
            let i = &v["in"];
            w.module
                .machine
                .advance_tsc(field(i, "ticks").max(field(i, "value")));
            Ok(())
        }
        "PCONFIG_RESULT" => {
            w.module.machine.set_pconfig(field(&v["in"], "value"));
            Ok(())
        }
        _ if op.starts_with("GUEST.") => guest(w, v, op),
        _ if op.starts_with("TDH.") || op.starts_with("LEAF") || op == "RAW" => call(w, v),
        _ => return Err(Trouble::Unknown(format!("operation {op}"))),
    };
    r.map_err(|t| match t {
        Trouble::Differs(d) => Trouble::Differs(format!("n={n} {op}: {d}")),
        Trouble::Unknown(d) => Trouble::Unknown(d),
    })
}

fn td_params(w: &World, i: &Value) -> Res {
    let pa = field(i, "pa");
    let m = &w.module.machine;
    for off in (0..1024).step_by(8) {
        m.write(pa + off, 0);
    }
    // Every named field: byte offset and width.
    let layout: &[(&str, u64, u32)] = &[
        ("attributes", 0, 64),
        ("xfam", 8, 64),
        ("max_vcpus", 16, 16),
        ("num_l2_vms", 18, 8),
        ("msr_config_ctls", 19, 8),
        ("eptp_controls", 24, 64),
        ("config_flags", 32, 64),
        ("tsc_frequency", 40, 16),
        ("ia32_arch_capabilities_config", 224, 64),
        ("reserved_0", 20, 32),
        ("reserved_1", 42, 8),
        ("reserved_2", 232, 8),
        ("reserved_3", 544, 8),
    ];
    let Some(fields) = i.as_object() else {
        return Err(Trouble::Unknown("TDPARAMS without fields".into()));
    };
    for (name, value) in fields {
        if name == "pa" {
            continue;
        }
        let Some((_, off, bits)) = layout.iter().find(|l| l.0 == name) else {
            return Err(Trouble::Unknown(format!("TDPARAMS field {name}")));
        };
        let value = number(value).unwrap_or(0);
        let mask = if *bits == 64 {
            u64::MAX
        } else {
            (1 << bits) - 1
        };
        let (word, shift) = (pa + off / 8 * 8, off % 8 * 8);
        let old = m.read(word);
        m.write(word, old & !(mask << shift) | (value & mask) << shift);
    }
    Ok(())
}

fn registers(i: &Value) -> Regs {
    Regs {
        rax: field(i, "rax"),
        rcx: field(i, "rcx"),
        rdx: field(i, "rdx"),
        rbx: field(i, "rbx"),
        r8: field(i, "r8"),
        r9: field(i, "r9"),
        r10: field(i, "r10"),
        r11: field(i, "r11"),
        r12: field(i, "r12"),
        r13: field(i, "r13"),
        ..Regs::default()
    }
}

fn call(w: &World, v: &Value) -> Res {
    let input = registers(&v["in"]);
    let mut regs = input;
    let outcome = w.module.seamcall(field(v, "lp") as usize, &mut regs);
    let out = &v["out"];
    if out.get("fatal").is_some() {
        return if outcome == Outcome::VmFailInvalid {
            Ok(())
        } else {
            differs(format!("{outcome:?}, recorded a shutdown"))
        };
    }
    if out.get("entered").is_some() {
        return if outcome == Outcome::Entered {
            Ok(())
        } else {
            differs(format!(
                "{outcome:?} rax {:#x}, recorded an entry",
                regs.rax
            ))
        };
    }
    if outcome != Outcome::Done {
        return differs(format!(
            "{outcome:?}, recorded rax {:#x}",
            field(out, "rax")
        ));
    }
    expect("rax", regs.rax, field(out, "rax"))?;
    expect("rcx", regs.rcx, field(out, "rcx"))?;
    expect("rdx", regs.rdx, field(out, "rdx"))?;
    expect("r8", regs.r8, field(out, "r8"))?;
    // The others are recorded only where they differ from the input.
    for (name, before, after) in [
        ("r9", input.r9, regs.r9),
        ("r10", input.r10, regs.r10),
        ("r11", input.r11, regs.r11),
    ] {
        let want = out.get(name).and_then(number).unwrap_or(before);
        expect(name, after, want)?;
    }
    Ok(())
}

fn guest(w: &World, v: &Value, op: &str) -> Res {
    let i = &v["in"];
    let event = match op {
        "GUEST.INTR" => GuestEvent::Interrupt { rip_adv: 64 },
        "GUEST.ACCEPT" => GuestEvent::Accept {
            gpa: field(i, "gpa"),
        },
        "GUEST.ATTR.WR" => GuestEvent::AttrWrite {
            rcx: field(i, "rcx"),
            rdx: field(i, "rdx"),
            r8: field(i, "r8"),
        },
        "GUEST.ATTR.RD" => GuestEvent::AttrRead {
            rcx: field(i, "rcx"),
        },
        "GUEST.EPTV" => GuestEvent::EptViolation {
            gpa: field(i, "gpa"),
            qual: field(i, "qual"),
            rip_adv: field(i, "rip_adv"),
        },
        _ => return Err(Trouble::Unknown(format!("operation {op}"))),
    };
    w.module.machine.advance_tsc(1_000_000);
    let got = w.module.guest_event(field(v, "lp") as usize, event);
    let out = &v["out"];
    if out.get("fatal").is_some() {
        return match got {
            GuestOutcome::None => Ok(()),
            _ => differs(format!("{got:x?}, recorded a shutdown")),
        };
    }
    if out.get("td_exit").is_some() {
        let GuestOutcome::Exit(r) = got else {
            return differs(format!("{got:x?}, recorded an exit"));
        };
        for (name, value) in [
            ("rax", r.rax),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
            ("r8", r.r8),
            ("r9", r.r9),
            ("r10", r.r10),
            ("r11", r.r11),
        ] {
            if let Some(want) = out.get(name).and_then(number) {
                expect(name, value, want)?;
            }
        }
        return Ok(());
    }
    if let Some(want) = out.get("guest_rax").and_then(number) {
        let GuestOutcome::InGuest(rax) = got else {
            return differs(format!("{got:x?}, recorded guest rax {want:#x}"));
        };
        return expect("guest rax", rax, want);
    }
    let ve = field(out, "ve") != 0;
    match got {
        GuestOutcome::VirtException(_) if ve => Ok(()),
        GuestOutcome::InGuest(_) if !ve => Ok(()),
        _ => differs(format!("{got:x?}, recorded ve {}", u64::from(ve))),
    }
}

fn lock(w: &World, v: &Value, take: bool) -> Res {
    let i = &v["in"];
    let tdr = field(i, "tdr");
    let level = field(i, "level") as u8;
    let obj = match i["obj"].as_str().unwrap_or("") {
        "pamt" => LockObj::Pamt {
            hpa: field(i, "hpa"),
            level,
        },
        "op_state" => LockObj::OpState { tdr },
        "sept_tree" => LockObj::SeptTree { tdr },
        "sept_entry" => LockObj::SeptEntry {
            tdr,
            gpa: field(i, "gpa"),
            level,
        },
        "epoch" => LockObj::Epoch { tdr },
        "kot" => LockObj::Kot,
        o => return Err(Trouble::Unknown(format!("lock object {o}"))),
    };
    let mode = if i["mode"] == "ex" {
        Mode::Exclusive
    } else {
        Mode::Shared
    };
    let side = if i["side"] == "guest" {
        Side::Guest
    } else {
        Side::Host
    };
    if take {
        let got = w.module.lock(obj, mode, side).err().unwrap_or(0);
        expect("ret", got, field(&v["out"], "ret"))
    } else {
        w.module.unlock(obj, mode);
        Ok(())
    }
}

fn probe(w: &World, v: &Value) -> Res {
    let m = &w.module;
    if let Some(s) = v.get("sept") {
        let level = field(s, "level") as u8;
        let (raw, reached) = m.sept_view(field(s, "tdr"), field(s, "gpa"), level);
        expect("sept reached", reached.into(), field(s, "reached"))?;
        expect("sept raw", raw, field(s, "raw"))?;
    }
    if let Some(p) = v.get("pamt") {
        let e = m
            .pamt_view(field(p, "hpa"), field(p, "level") as u8)
            .unwrap_or_default();
        expect("pamt pt", e.pt.into(), field(p, "pt"))?;
        expect("pamt owner", e.owner, field(p, "owner"))?;
        expect("pamt bepoch", e.bepoch, field(p, "bepoch"))?;
        expect("pamt lock", e.lock.into(), field(p, "lock"))?;
    }
    if let Some(t) = v.get("td") {
        let d = m.td_view(field(t, "tdr"));
        for (name, got) in [
            ("fatal", d.fatal),
            ("num_tdcx", d.num_tdcx),
            ("chldcnt", d.chldcnt),
            ("lifecycle", d.lifecycle),
            ("op_state", d.op_state),
            ("epoch", d.epoch),
            ("ref0", d.ref0),
            ("ref1", d.ref1),
            ("num_vcpus", d.num_vcpus),
            ("num_assoc", d.num_assoc),
            ("op_state_lock", d.op_state_lock),
            ("sept_lock", d.sept_lock),
            ("epoch_lock", d.epoch_lock),
        ] {
            if let Some(want) = t.get(name).and_then(number) {
                expect(name, got, want)?;
            }
        }
    }
    Ok(())
}

/// The GPAs whose 4 KiB entries a final dump lists if they are not FREE.
fn dump_gpas() -> impl Iterator<Item = u64> {
    let run = |base: u64| (0..21).map(move |i| base + i * 0x1000);
    run(0)
        .chain([0x1_F000])
        .chain(run(0x20_0000))
        .chain(run(0x4000_0000))
}

fn row(v: &Value) -> Vec<u64> {
    v.as_array()
        .map(|a| a.iter().map(|x| number(x).unwrap_or(0)).collect())
        .unwrap_or_default()
}

fn rows(v: &Value) -> Vec<Vec<u64>> {
    v.as_array()
        .map(|a| a.iter().map(row).collect())
        .unwrap_or_default()
}

fn final_dump(w: &World, v: &Value) -> Res {
    let m = &w.module;
    let tds = rows(&v["td"]);
    for t in &tds {
        let d = m.td_view(t[0]);
        let got = [
            d.fatal,
            d.num_tdcx,
            d.chldcnt,
            d.lifecycle,
            d.op_state,
            d.epoch,
            d.ref0,
            d.ref1,
            d.num_vcpus,
            d.num_assoc,
        ];
        for (i, (g, want)) in got.iter().zip(&t[1..]).enumerate() {
            expect(&format!("td {:#x} field {i}", t[0]), *g, *want)?;
        }
    }
    let entries = rows(&v["sept"]);
    for e in &entries {
        let (raw, reached) = m.sept_view(e[0], e[1], e[2] as u8);
        let what = format!("sept {:#x} gpa {:#x} level {}", e[0], e[1], e[2]);
        expect(&what, raw, e[3])?;
        expect(&format!("{what} reached"), reached.into(), e[2])?;
    }
    for t in tds.iter().filter(|t| t[4] == 1) {
        for gpa in dump_gpas() {
            let (raw, reached) = m.sept_view(t[0], gpa, 0);
            let listed = entries
                .iter()
                .any(|e| e[0] == t[0] && e[1] == gpa && e[2] == 0);
            if reached == 0 && sept::try_state(raw) != Some(sept::State::Free) && !listed {
                return differs(format!(
                    "sept {:#x} gpa {gpa:#x}: model {raw:#x}, not in the dump",
                    t[0]
                ));
            }
        }
    }
    let pamt = rows(&v["pamt"]);
    for p in &pamt {
        let e = m.pamt_view(p[0], p[1] as u8).unwrap_or_default();
        let what = format!("pamt {:#x} level {}", p[0], p[1]);
        expect(&format!("{what} pt"), e.pt.into(), p[2])?;
        expect(&format!("{what} owner"), e.owner, p[3])?;
        expect(&format!("{what} bepoch"), e.bepoch, p[4])?;
        expect(&format!("{what} lock"), e.lock.into(), p[5])?;
    }
    let pool = (0..224).map(|i| (0x4020_0000 + i * 0x1000, 0));
    let large = (0..16).map(|i| (0x4040_0000 + i * 0x20_0000, 1));
    for (hpa, level) in pool.chain(large) {
        let e = m.pamt_view(hpa, level).unwrap_or_default();
        let listed = pamt.iter().any(|p| p[0] == hpa && p[1] == u64::from(level));
        if e != Default::default() && !listed {
            return differs(format!(
                "pamt {hpa:#x} level {level}: model {e:x?}, not in the dump"
            ));
        }
    }
    Ok(())
}
