/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The TDX module as a whole: bringing it up, its KeyIDs, its caches.
 */
#ifndef TDHOST_SYS_H
#define TDHOST_SYS_H

#include <linux/types.h>

int tdx_sys_init(void);
void tdx_sys_exit(void);

/* What a TD and a vCPU are made of, in pages. */
unsigned int tdx_tdcs_pages(void);
unsigned int tdx_tdvps_pages(void);

int tdx_hkid_alloc(void);
void tdx_hkid_free(u16 hkid);
u16 tdx_global_hkid(void);
u64 tdx_with_hkid(u64 pa, u16 hkid);

int tdx_on_each_package(u64 (*call)(u64 arg), u64 arg, const char *what);
int tdx_hkid_flush(u64 tdr);

#endif /* TDHOST_SYS_H */
