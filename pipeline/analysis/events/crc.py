"""The masked CRC-32C of TFRecords."""

from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.jit import Int, compiled


def _crc_tables() -> npt.NDArray[np.uint64]:
    """Tables of CRC-32C (Castagnoli) for eight bytes at a time, (8, 256) uint64."""
    tables = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        tables[0, byte] = crc
    for row in range(1, 8):
        before = tables[row - 1].astype(np.int64)
        tables[row] = tables[0][before & 0xFF] ^ (tables[row - 1] >> np.uint64(8))
    return tables


CRC_TABLES: Final = _crc_tables()


@compiled
def masked_crc(
    data: npt.NDArray[np.uint8], low: int, high: int, tables: npt.NDArray[np.uint64]
) -> Int:
    """Return the masked CRC-32C of data[low:high], as TFRecords store it."""
    crc = np.uint64(0xFFFFFFFF)
    byte = np.uint64(0xFF)
    at = low
    while at + 8 <= high:
        word = crc
        for i in range(4):
            word ^= np.uint64(data[at + i]) << np.uint64(8 * i)
        crc = (
            tables[7, word & byte]
            ^ tables[6, (word >> np.uint64(8)) & byte]
            ^ tables[5, (word >> np.uint64(16)) & byte]
            ^ tables[4, (word >> np.uint64(24)) & byte]
            ^ tables[3, data[at + 4]]
            ^ tables[2, data[at + 5]]
            ^ tables[1, data[at + 6]]
            ^ tables[0, data[at + 7]]
        )
        at += 8
    while at < high:
        crc = tables[0, (crc ^ np.uint64(data[at])) & byte] ^ (crc >> np.uint64(8))
        at += 1
    crc ^= np.uint64(0xFFFFFFFF)
    turned = ((crc >> np.uint64(15)) | (crc << np.uint64(17))) & np.uint64(0xFFFFFFFF)
    return np.int64((turned + np.uint64(0xA282EAD8)) & np.uint64(0xFFFFFFFF))
