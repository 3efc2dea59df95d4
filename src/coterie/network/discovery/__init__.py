"""How peers find each other: static addresses, what members tell, and a distributed hash table. Nothing is trusted.

A found address is only somewhere to dial; TLS then proves whose key answers there. Whoever lies about addresses can
cost dials that fail, within limits, and can hide a peer from those who have no other way to it; it cannot pose as one.
"""

from coterie.network.addresses import Address
from coterie.network.discovery.announcement import Announcement, dht_seed
from coterie.network.discovery.book import AddressBook, BookLimits, Source
from coterie.network.discovery.book_file import load_book, save_book
from coterie.network.discovery.dht import Dht, DhtLimits
from coterie.network.discovery.discovery import Discovery, DiscoveryLimits
from coterie.network.discovery.messages import Addresses, Heard
from coterie.network.discovery.rendezvous import Rendezvous
from coterie.network.discovery.strangers import StrangerLimits

__all__ = [
    "Address",
    "AddressBook",
    "Addresses",
    "Announcement",
    "BookLimits",
    "Dht",
    "DhtLimits",
    "Discovery",
    "DiscoveryLimits",
    "Heard",
    "Rendezvous",
    "Source",
    "StrangerLimits",
    "dht_seed",
    "load_book",
    "save_book",
]
