"""Ethernet frames, byte by byte, as a guest that may lie would make them."""

import ipaddress
import struct
from typing import Final

BROADCAST: Final = "ff:ff:ff:ff:ff:ff"
ANY: Final = "0.0.0.0"
EVERYBODY: Final = "255.255.255.255"

IPV4: Final = 0x0800
ARP: Final = 0x0806
VLAN: Final = 0x8100
IPV6: Final = 0x86DD
_UDP: Final = 17


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    """Return a frame, padded to the least that Ethernet carries."""
    frame = mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", kind) + payload
    return frame.ljust(60, b"\0")


def tagged(frame: bytes, vlan: int, *, kind: int = VLAN) -> bytes:
    """Return the frame with an 802.1Q tag."""
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def arp(
    source: str,
    sender_mac: str,
    sender: str,
    target: str,
    *,
    destination: str = BROADCAST,
    operation: int = 1,
) -> bytes:
    """Return an ARP request (1) or answer (2)."""
    header = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    body = mac_bytes(sender_mac) + _ip(sender) + bytes(6) + _ip(target)
    return ethernet(source, destination, ARP, header + body)


def udp(
    source: str,
    sender: str,
    target: str,
    *,
    destination: str = BROADCAST,
    ports: tuple[int, int] = (4000, 4000),
    payload: bytes = b"long enough to need no padding",
) -> bytes:
    """Return a UDP packet over IPv4 in a frame."""
    datagram = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload  # 0: no checksum
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, _UDP, 0)
    header += _ip(sender) + _ip(target)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return ethernet(source, destination, IPV4, header + datagram)


def udp6(
    source: str, sender: str, target: str, *, destination: str, ports: tuple[int, int]
) -> bytes:
    """Return a UDP packet over IPv6 in a frame."""
    datagram = struct.pack("!HHHH", *ports, 8, 0)
    addresses = ipaddress.IPv6Address(sender).packed + ipaddress.IPv6Address(target).packed
    header = struct.pack("!IHBB", 6 << 28, len(datagram), _UDP, 64) + addresses
    return ethernet(source, destination, IPV6, header + datagram)


def router_advertisement(source: str) -> bytes:
    body = bytes([134, 0, 0, 0, 64, 0]) + struct.pack("!HII", 1800, 0, 0)
    addresses = ipaddress.IPv6Address("fe80::1").packed + ipaddress.IPv6Address("ff02::1").packed
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + addresses
    return ethernet(source, "33:33:00:00:00:01", IPV6, header + body)


def _ip(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def _checksum(header: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(header) // 2}H", header)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
