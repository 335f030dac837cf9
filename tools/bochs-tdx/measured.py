# SPDX-License-Identifier: GPL-2.0
"""What MRTD and the RTMRs of a TD have to be, from its firmware's file and its event log.

MRTD: the TDVF metadata of the file says which pages QEMU gives the TD before it runs, in
which order, and which of them are measured (Intel TDX Virtual Firmware Design Guide, "TDVF
metadata"). TDH.MEM.PAGE.ADD measures "MEM.PAGE.ADD" and the GPA, TDH.MR.EXTEND
"MR.EXTEND", the GPA and 256 bytes, all in blocks of 128 bytes, with SHA-384 (Intel TDX
module 1.5 ABI specification). KVM extends each page right after it has added it.
"""

import hashlib
import struct
import uuid

PAGE = 4096
CHUNK = 256
BLOCK = 128
# Types of sections: firmware volumes, the hand-off block, memory that is there at once.
GIVEN = {0: "BFV", 1: "CFV", 2: "TD_HOB", 3: "TEMP_MEM"}
MEASURED = 1
TABLE_FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
TDX_METADATA = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
# Of the table's end from the end of the file: it is below the reset vector.
FOOTER_AT = 32
SECTION = struct.Struct("<IIQQII")


def guided_entries(image):
    """Entries of the table of GUIDs at the end of the firmware: GUID and data."""
    end = len(image) - FOOTER_AT
    (length,) = struct.unpack_from("<H", image, end - 18)
    if uuid.UUID(bytes_le=image[end - 16 : end]) != TABLE_FOOTER:
        raise ValueError("the firmware has no table of GUIDs")
    at, start = end - 18, end - length
    while at > start:
        name = uuid.UUID(bytes_le=image[at - 16 : at])
        (size,) = struct.unpack_from("<H", image, at - 18)
        if size < 18:
            raise ValueError("an entry of the firmware's table is too short")
        yield name, image[at - size : at - 18]
        at -= size


def sections(image):
    """Of the TDVF metadata: offset and size in the file, GPA, size there, type, attributes."""
    entries = dict(guided_entries(image))
    if TDX_METADATA not in entries:
        raise ValueError("the firmware is not made for TDs")
    at = len(image) - struct.unpack("<I", entries[TDX_METADATA])[0]
    signature, _, _, count = struct.unpack_from("<4sIII", image, at)
    if signature != b"TDVF":
        raise ValueError("the firmware's TDX metadata is damaged")
    return [SECTION.unpack_from(image, at + 16 + n * SECTION.size) for n in range(count)]


def record(what, gpa):
    return (what.ljust(16, b"\0") + struct.pack("<Q", gpa)).ljust(BLOCK, b"\0")


def mrtd(image):
    """What MRTD of a TD is that starts from this firmware, as hexadecimal digits."""
    measurement = hashlib.sha384()
    for offset, size, gpa, room, kind, attributes in sections(image):
        if kind not in GIVEN:
            continue
        content = image[offset : offset + size].ljust(room, b"\0")
        for at in range(0, room, PAGE):
            measurement.update(record(b"MEM.PAGE.ADD", gpa + at))
            if not attributes & MEASURED:
                continue
            for chunk in range(at, at + PAGE, CHUNK):
                measurement.update(record(b"MR.EXTEND", gpa + chunk))
                measurement.update(content[chunk : chunk + CHUNK])
    return measurement.hexdigest()


def rtmrs(events):
    """The registers after these extensions: register and digest, both as the TD has said."""
    values = [bytes(48)] * 4
    for register, digest in events:
        values[register] = hashlib.sha384(values[register] + bytes.fromhex(digest)).digest()
    return [value.hex() for value in values]
