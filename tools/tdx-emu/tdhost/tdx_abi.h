/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The part of the TDX module's host interface that is used here: leaf numbers,
 * statuses, operands. Numbers are those of the Intel TDX module 1.5 ABI
 * specification.
 */
#ifndef TDHOST_TDX_ABI_H
#define TDHOST_TDX_ABI_H

#include <linux/bits.h>
#include <linux/types.h>

enum tdx_leaf {
	TDH_VP_ENTER = 0,
	TDH_MNG_ADDCX = 1,
	TDH_MEM_PAGE_ADD = 2,
	TDH_MEM_SEPT_ADD = 3,
	TDH_VP_ADDCX = 4,
	TDH_MEM_PAGE_AUG = 6,
	TDH_MEM_RANGE_BLOCK = 7,
	TDH_MNG_KEY_CONFIG = 8,
	TDH_MNG_CREATE = 9,
	TDH_VP_CREATE = 10,
	TDH_MEM_RD = 12,
	TDH_MR_FINALIZE = 17,
	TDH_VP_FLUSH = 18,
	TDH_MNG_VPFLUSHDONE = 19,
	TDH_MNG_KEY_FREEID = 20,
	TDH_MNG_INIT = 21,
	TDH_VP_INIT = 22,
	TDH_PHYMEM_PAGE_RDMD = 24,
	TDH_MEM_SEPT_RD = 25,
	TDH_PHYMEM_PAGE_RECLAIM = 28,
	TDH_MEM_PAGE_REMOVE = 29,
	TDH_SYS_KEY_CONFIG = 31,
	TDH_SYS_INIT = 33,
	TDH_SYS_RD = 34,
	TDH_SYS_LP_INIT = 35,
	TDH_SYS_TDMR_INIT = 36,
	TDH_MEM_TRACK = 38,
	TDH_PHYMEM_CACHE_WB = 40,
	TDH_PHYMEM_PAGE_WBINVD = 41,
	TDH_SYS_CONFIG = 45,
};

/* A leaf's version, to be added to its number. */
#define TDX_VERSION_1			BIT_ULL(16)

/*
 * Statuses: the upper half says what, the lower half about which operand. The
 * class 0xff is free for software: the instruction itself has failed.
 */
#define TDX_STATUS(upper)		((u64)(upper) << 32)
#define TDX_STATUS_MASK			TDX_STATUS(0xffffffff)

#define TDX_SUCCESS			TDX_STATUS(0x00000000)
#define TDX_INTERRUPTED_RESUMABLE	TDX_STATUS(0x80000003)
#define TDX_OPERAND_BUSY		TDX_STATUS(0x80000200)
#define TDX_PREVIOUS_TLB_EPOCH_BUSY	TDX_STATUS(0x80000201)
#define TDX_SYS_BUSY			TDX_STATUS(0x80000202)
#define TDX_RND_NO_ENTROPY		TDX_STATUS(0x80000203)
#define TDX_HOST_PRIORITY_BUSY_TIMEOUT	TDX_STATUS(0x90000205)
#define TDX_SYS_INIT_NOT_PENDING	TDX_STATUS(0xc0000500)
#define TDX_SYS_LP_INIT_NOT_DONE	TDX_STATUS(0xc0000502)
#define TDX_SYS_LP_INIT_DONE		TDX_STATUS(0xc0000503)
#define TDX_SYS_NOT_READY		TDX_STATUS(0xc0000505)
#define TDX_VCPU_NOT_ASSOCIATED		TDX_STATUS(0x80000702)
#define TDX_KEY_CONFIGURED		TDX_STATUS(0x00000815)
#define TDX_NO_HKID_READY_TO_WBCACHE	TDX_STATUS(0x00000821)
#define TDX_EPT_ENTRY_NOT_PRESENT	TDX_STATUS(0xc0000b03)
#define TDX_EPT_ENTRY_STATE_INCORRECT	TDX_STATUS(0xc0000b0d)
#define TDX_SOFTWARE_ERROR		TDX_STATUS(0x8000ff00)
#define TDX_NO_MODULE			0x8000ff00ffff0000ULL

/* Basic exit reasons, the lower half of RAX when TDH.VP.ENTER succeeds. */
#define TDX_EXIT_INTERRUPT		1
#define TDX_EXIT_EPT_VIOLATION		48
#define TDX_EXIT_TDCALL			77

/* TD_PARAMS, as 64-bit words. */
#define TD_PARAMS_ATTRIBUTES		0
#define TD_PARAMS_XFAM			1
#define TD_PARAMS_MAX_VCPUS		2
#define TD_PARAMS_EPTP_CONTROLS		3
#define TD_PARAMS_TSC_FREQUENCY		5

#define TD_ATTRIBUTE_DEBUG		BIT_ULL(0)
/* x87 and SSE, which every TD has. */
#define TD_XFAM				3
/* Write-back tables of four levels. */
#define TD_EPTP_CONTROLS		(6 | 3 << 3)
/* In units of 25 MHz. */
#define TD_TSC_FREQUENCY		100

/* Metadata fields of the module (TDH.SYS.RD). */
#define TDX_FIELD_TDCS_BASE_SIZE	0x9800000100000100ULL
#define TDX_FIELD_TDVPS_BASE_SIZE	0x9800000100000200ULL

/* Output of TDH.MEM.SEPT.RD. */
#define TDX_SEPT_HPA			GENMASK_ULL(51, 12)
#define TDX_SEPT_LEVEL			GENMASK_ULL(2, 0)
#define TDX_SEPT_STATE			GENMASK_ULL(15, 8)

/* TDMRs and what SYS.CONFIG takes. */
#define TDX_TDMR_ALIGN			BIT_ULL(30)
#define TDX_TDMR_MAX			64
#define TDX_TDMR_MAX_RESERVED		16
#define TDX_PAMT_ENTRY			16

struct tdmr_reserved {
	u64 offset;
	u64 size;
};

struct tdmr_info {
	u64 base;
	u64 size;
	u64 pamt_1g_base;
	u64 pamt_1g_size;
	u64 pamt_2m_base;
	u64 pamt_2m_size;
	u64 pamt_4k_base;
	u64 pamt_4k_size;
	struct tdmr_reserved reserved[TDX_TDMR_MAX_RESERVED];
} __aligned(512);

#endif /* TDHOST_TDX_ABI_H */
