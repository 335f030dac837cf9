// SPDX-License-Identifier: GPL-2.0
//! What a TD sees of the machine and of itself: CPUID, MSRs, its fields, its measurements.

mod common;

use common::*;
use tdx_emu_model::regs::{leaf, op, tdcall};
use tdx_emu_model::{CpuidState, MsrAccess, PhysMem, Regs};

const LP: usize = 1;
/// Words of TD_PARAMS.
const ATTRIBUTES: u64 = 0;
const XFAM: u64 = 8;
const CPUID: u64 = 256;
/// A TD whose host asks for nothing special but debugging.
const SUPERVISOR: CpuidState = CpuidState {
    supervisor: true,
    cr4: 0,
    long_mode: true,
};

/// MNG.RD of a leaf's values; without subleaves if `sub` is `None`.
fn told(vm: &Vm, leaf: u32, sub: Option<u32>) -> Result<[u32; 4], u64> {
    let sub = sub.map_or(0xFF, u64::from);
    let code = u64::from(leaf >> 31) << 16 | u64::from(leaf & 0x7F) << 9 | sub << 1;
    let half = |n: u64| {
        let r = vm.call(
            0,
            Regs::call(leaf::MNG_RD, TDR, 0x9410_0003_0000_0000 | code | n),
        );
        if r.rax == 0 {
            Ok([r.r8 as u32, (r.r8 >> 32) as u32])
        } else {
            Err(r.rax)
        }
    };
    let ([a, b], [c, d]) = (half(0)?, half(1)?);
    Ok([a, b, c, d])
}

#[test]
fn what_executes_is_what_the_host_is_told() {
    let vm = Vm::entered(&[]);
    let mut answered = 0;
    for leaf in (0..=0x23).chain(0x8000_0000..=0x8000_0008) {
        for sub in 0..=0x12 {
            let got = vm.m.guest_cpuid(LP, leaf, sub, &SUPERVISOR);
            let host = told(&vm, leaf, Some(sub)).or_else(|_| told(&vm, leaf, None));
            let Some(mut got) = got else {
                assert!(host.is_err() || leaf == 0x1F, "{leaf:#x}.{sub} is told");
                continue;
            };
            // Made up while the guest runs: APIC id, XSAVE areas, SYSCALL.
            let mut want = host.unwrap_or_else(|e| panic!("{leaf:#x}.{sub}: {e:#x}"));
            match (leaf, sub) {
                (0xD, 0 | 1) => (got[1], want[1]) = (0, 0),
                (0x8000_0001, _) => {
                    assert_eq!(got[3] >> 11 & 1, 1);
                    got[3] &= !(1 << 11);
                }
                _ => {}
            }
            assert_eq!(got, want, "{leaf:#x}.{sub}");
            answered += 1;
        }
    }
    assert!(answered > 200, "{answered}");
}

#[test]
fn leaves_that_are_exceptions() {
    let vm = Vm::entered(&[]);
    let get = |leaf, sub| vm.m.guest_cpuid(LP, leaf, sub, &SUPERVISOR);
    for leaf in [
        2,
        6,
        9,
        0xB,
        0xC,
        0x10,
        0x16,
        0x18,
        0x1A,
        0x1F,
        0x4000_0000,
        0x4FFF_FFFF,
    ]
    .into_iter()
    .chain(0x8000_0002..=0x8000_0006)
    {
        assert_eq!(get(leaf, 0), None, "{leaf:#x}");
    }
    // Above the highest leaf: as the highest basic one.
    for leaf in [0x24, 0x3FFF_FFFF, 0x8000_0009, u32::MAX] {
        assert_eq!(get(leaf, 0), get(0x23, 0), "{leaf:#x}");
        assert!(get(leaf, 0).is_some());
    }
}

#[test]
fn xfam_and_attributes_decide() {
    let vm = |xfam: u64, attributes: u64| Vm::entered(&[(XFAM, xfam), (ATTRIBUTES, attributes)]);
    for (xfam, attributes, leaf, sub, register, bits, want) in [
        // FMA, which the host cannot turn off, and what XSAVE has.
        (3, 1, 1, 0, 2, 1 << 12, 0),
        (7, 1, 1, 0, 2, 1 << 12, 1 << 12),
        (3, 1, 0xD, 0, 0, !0, 3),
        (7, 1, 0xD, 0, 0, !0, 7),
        (3, 1, 0xD, 0, 2, !0, 576),
        (7, 1, 0xD, 0, 2, !0, 832),
        (3, 1, 0xD, 2, 0, !0, 0),
        (7, 1, 0xD, 2, 0, !0, 256),
        // AVX2.
        (3, 1, 7, 0, 1, 1 << 5, 0),
        (7, 1, 7, 0, 1, 1 << 5, 1 << 5),
        // Protection keys for the kernel are an attribute.
        (3, 1, 7, 0, 2, 1 << 31, 0),
        (3, 1 << 30, 7, 0, 2, 1 << 31, 1 << 31),
        // Performance monitoring too.
        (3, 1, 0xA, 0, 0, !0, 0),
        (3, 1 << 63, 0xA, 0, 0, !0, !0),
    ] {
        let vm = vm(xfam, attributes);
        let got = vm.m.guest_cpuid(LP, leaf, sub, &SUPERVISOR).unwrap()[register];
        assert_eq!(
            got & bits,
            want,
            "XFAM {xfam:#x}, {leaf:#x}.{sub}[{register}]"
        );
    }
}

#[test]
fn the_host_chooses_within_limits() {
    let at = |index: u64, half: u64| CPUID + 16 * index + 8 * half;
    // Leaf 1: model and stepping of the machine, MONITOR; 4.0 is all the host's.
    let vm = Vm::entered(&[
        (at(0, 0), u64::from(FMS) | 0x0012_0000_0000_0000),
        (at(0, 1), 1 << 3),
        (at(1, 0), 0x1234_4021),
    ]);
    let one = vm.m.guest_cpuid(LP, 1, 0, &SUPERVISOR).unwrap();
    assert_eq!(one[0], FMS);
    // CLFLUSH size is the machine's, logical processors are the host's, the index the vCPU's.
    assert_eq!(one[1], 0x0012_FF00);
    assert_eq!(one[2] >> 3 & 1, 1);
    assert!(vm.m.vcpu_controls(LP).unwrap().monitor);
    assert!(!Vm::entered(&[]).m.vcpu_controls(LP).unwrap().monitor);
    // TSC_DEADLINE was not asked for; VMX and SMX cannot be.
    assert_eq!(one[2] & (1 << 24 | 3 << 5), 0);
    let cache = vm.m.guest_cpuid(LP, 4, 0, &SUPERVISOR).unwrap();
    assert_eq!(cache, [0x1234_4021, 0xFFF, 0, 0]);

    let refused = |words: &[(u64, u64)]| {
        let vm = Vm::bare();
        vm.create(TDR, HKID);
        for i in 0..6 {
            vm.ok(0, Regs::call(leaf::MNG_ADDCX, TDCX + 0x1000 * i, TDR));
        }
        vm.params(1);
        for (offset, word) in words {
            vm.m.machine.write(PARAMS + offset, *word);
        }
        let r = vm.call(0, Regs::call(leaf::MNG_INIT, TDR, PARAMS));
        (r.rax, r.rcx)
    };
    let bad = invalid(op::CPUID_CONFIG);
    // VMX; another CPU's model; one half of TSX; a reserved bit of 0x80000008.
    assert_eq!(refused(&[(at(0, 1), 1 << 5)]), (bad, 0xFFFF_FFFF_0000_0001));
    assert_eq!(
        refused(&[(at(0, 0), 0x906E9)]),
        (bad, 0xFFFF_FFFF_0000_0001)
    );
    assert_eq!(refused(&[(at(5, 0), 1 << 36)]), (bad, 7));
    assert_eq!(refused(&[(at(9, 0), 1)]), (bad, 0xFFFF_FFFF_8000_0008));
}

#[test]
fn state_of_the_guest_shows() {
    let vm = Vm::entered(&[]);
    let cpuid = |leaf, s: CpuidState| vm.m.guest_cpuid(LP, leaf, 0, &s).unwrap();
    let with = |cr4| CpuidState { cr4, ..SUPERVISOR };
    assert_eq!(cpuid(1, with(0))[2] >> 27 & 1, 0);
    assert_eq!(cpuid(1, with(1 << 18))[2] >> 27 & 1, 1);
    assert_eq!(cpuid(7, with(1 << 22))[2] >> 4 & 1, 1);
    let legacy = CpuidState {
        long_mode: false,
        ..SUPERVISOR
    };
    assert_eq!(cpuid(0x8000_0001, legacy)[3] >> 11 & 1, 0);
    // The second vCPU has another number.
    vm.enter(1);
    assert_eq!(vm.m.guest_cpuid(2, 1, 0, &SUPERVISOR).unwrap()[1] >> 24, 1);
    assert_eq!(cpuid(1, SUPERVISOR)[1] >> 24, 0);
}

#[test]
fn capabilities_are_what_can_be_asked_for() {
    let vm = Vm::bare();
    let read = |field| vm.ok(0, Regs::call(leaf::SYS_RD, 0, field)).r8;
    assert_eq!(read(0x9900_0001_0000_0004), 18);
    for i in 0..18 {
        let id = read(0x9900_0003_0000_0400 + i);
        let bits = [0, 1].map(|half| read(0x9900_0003_0000_0500 + 2 * i + half));
        assert_ne!((id, bits), (0, [u64::MAX; 2]), "{i}");
        // VMX is never among them.
        assert!(id != 0xFFFF_FFFF_0000_0001 || bits[1] & 1 << 5 == 0);
    }
}

#[test]
fn msrs() {
    let plain = Vm::entered(&[]);
    let deadline = Vm::entered(&[(CPUID + 8, 1 << 24)]);
    let access = |vm: &Vm, index, write| vm.m.guest_msr(LP, index, write);
    for (index, read, write) in [
        (0x10, MsrAccess::Native, MsrAccess::VirtException),
        (0x48, MsrAccess::Native, MsrAccess::Native),
        (0x49, MsrAccess::Native, MsrAccess::Native),
        (0x1B, MsrAccess::VirtException, MsrAccess::VirtException),
        (0x1A0, MsrAccess::Value(1 << 12), MsrAccess::VirtException),
        (0xBD, MsrAccess::Value(1), MsrAccess::Native),
        (0x10A, MsrAccess::Value(0x8_F16F), MsrAccess::Native),
        (0x345, MsrAccess::Value(0), MsrAccess::Fault),
        (0x3A, MsrAccess::VirtException, MsrAccess::VirtException),
        (0x480, MsrAccess::VirtException, MsrAccess::Fault),
        (0x6A2, MsrAccess::Fault, MsrAccess::Fault),
        (0x1C4, MsrAccess::Fault, MsrAccess::Fault),
        (0xE1, MsrAccess::Fault, MsrAccess::Fault),
        (0x6E0, MsrAccess::Fault, MsrAccess::Fault),
        (0x6E1, MsrAccess::Fault, MsrAccess::Fault),
        (0xC1, MsrAccess::Fault, MsrAccess::Fault),
        (0x570, MsrAccess::Fault, MsrAccess::Fault),
        (0x80B, MsrAccess::Native, MsrAccess::Native),
        (0x802, MsrAccess::VirtException, MsrAccess::VirtException),
        (
            0xC000_0083,
            MsrAccess::VirtException,
            MsrAccess::VirtException,
        ),
        (
            0xC001_0015,
            MsrAccess::VirtException,
            MsrAccess::VirtException,
        ),
    ] {
        assert_eq!(access(&plain, index, None), read, "RDMSR {index:#x}");
        assert_eq!(access(&plain, index, Some(0)), write, "WRMSR {index:#x}");
    }
    assert_eq!(access(&deadline, 0x6E0, None), MsrAccess::VirtException);
    let pks = Vm::entered(&[(ATTRIBUTES, 1 << 30)]);
    assert_eq!(access(&pks, 0x6E1, Some(0)), MsrAccess::Native);
    // EFER: SCE only. XSS: what XFAM has, which is nothing. DEBUGCTL: no reserved bits.
    assert_eq!(access(&plain, 0xC000_0080, Some(0xD00)), MsrAccess::Native);
    assert_eq!(
        access(&plain, 0xC000_0080, Some(0x501)),
        MsrAccess::VirtException
    );
    assert_eq!(access(&plain, 0xDA0, Some(0)), MsrAccess::Native);
    assert_eq!(access(&plain, 0xDA0, Some(1 << 8)), MsrAccess::Fault);
    assert_eq!(access(&plain, 0x1D9, Some(1 << 2)), MsrAccess::Fault);
    assert_eq!(
        access(&plain, 0x1D9, Some(1 << 6)),
        MsrAccess::VirtException
    );
    assert_eq!(access(&plain, 0x1D9, Some(1)), MsrAccess::Native);
}

#[test]
fn topology_if_the_host_has_configured_it() {
    let choice = |i: u64, eax: u64, ebx: u64, ecx: u64| {
        [
            (CPUID + 16 * (12 + i), eax | ebx << 32),
            (CPUID + 16 * (12 + i) + 8, ecx),
        ]
    };
    let params = [choice(0, 0, 1, 1 << 8), choice(1, 1, 2, 2 << 8 | 1)].concat();
    let vm = Vm::bare();
    vm.create(TDR, HKID);
    for i in 0..6 {
        vm.ok(0, Regs::call(leaf::MNG_ADDCX, TDCX + 0x1000 * i, TDR));
    }
    vm.params(1);
    for (offset, word) in params {
        vm.m.machine.write(PARAMS + offset, word);
    }
    vm.ok(0, Regs::call(leaf::MNG_INIT, TDR, PARAMS));
    vm.ok(0, Regs::call(leaf::VP_CREATE, VCPU, TDR));
    for i in 1..6 {
        vm.ok(0, Regs::call(leaf::VP_ADDCX, VCPU + 0x1000 * i, VCPU));
    }
    let id = 5;
    vm.ok(
        LP,
        Regs {
            rax: 22 | 1 << 16,
            r8: id,
            ..Regs::call(0, VCPU, 0)
        },
    );
    for (i, level) in [3u64, 2, 1].into_iter().enumerate() {
        vm.ok(
            0,
            Regs::call3(leaf::MEM_SEPT_ADD, level, TDR, SEPT + 0x1000 * i as u64),
        );
    }
    vm.ok(0, Regs::call(leaf::MR_FINALIZE, TDR, 0));
    vm.enter(0);
    let get = |leaf, sub| vm.m.guest_cpuid(LP, leaf, sub, &SUPERVISOR);
    assert_eq!((get(0x1F, 0), get(0xB, 0)), (None, None));
    assert_eq!(vm.td_field(0x9100_0000_0000_0019, 1), [1]);
    let on = Regs {
        r9: 2,
        ..Regs::call3(tdcall::VM_WR, 0, 0x1110_0003_0000_0017, 2)
    };
    assert_eq!(vm.tdcall(on).rax, 0);
    let id = id as u32;
    assert_eq!(get(0x1F, 0), Some([0, 1, 1 << 8, id]));
    assert_eq!(get(0x1F, 1), Some([1, 2, 2 << 8 | 1, id]));
    assert_eq!(get(0x1F, 2), Some([0, 0, 2, id]));
    assert_eq!(get(0xB, 0), Some([0, 1, 1 << 8, id]));
    assert_eq!(get(0xB, 1), Some([1, 2, 2 << 8 | 1, id]));
    assert_eq!(get(0xB, 2), Some([0, 0, 2, id]));
}
