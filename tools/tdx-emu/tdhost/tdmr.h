/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which memory the TDX module manages, and where it keeps notes about it.
 */
#ifndef TDHOST_TDMR_H
#define TDHOST_TDMR_H

#include "tdx_abi.h"

/**
 * struct tdmr_list - the TDMRs that cover all memory
 * @nr: number of entries
 * @info: what SYS.CONFIG takes, physically contiguous from an aligned address
 * @pamt: first page of each TDMR's PAMT
 * @pamt_pages: pages of each TDMR's PAMT
 */
struct tdmr_list {
	unsigned int nr;
	struct tdmr_info *info;
	struct page *pamt[TDX_TDMR_MAX];
	unsigned long pamt_pages[TDX_TDMR_MAX];
};

int tdmr_build(struct tdmr_list *list);
void tdmr_free_info(struct tdmr_list *list);
void tdmr_free_pamts(struct tdmr_list *list);
unsigned long tdmr_pamt_bytes(const struct tdmr_list *list);

#endif /* TDHOST_TDMR_H */
