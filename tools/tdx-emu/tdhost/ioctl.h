/* SPDX-License-Identifier: GPL-2.0 */
/*
 * /dev/tdhost.
 */
#ifndef TDHOST_IOCTL_H
#define TDHOST_IOCTL_H

int ioctl_register(void);
void ioctl_unregister(void);

#endif /* TDHOST_IOCTL_H */
