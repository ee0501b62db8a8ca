"""Tables of rooms, receptacles and objects.

The names and the table of which receptacle can hold which object are a subset of ALFRED's (Shridhar et al.
2020); the contents of the rooms are our own.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
#: Receptacles that are a part of another object, whose name comes first in the id.
PART_OF = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}

CLEANABLE = frozenset(
    _words("""Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate
    Pot Potato SoapBar Spatula Spoon Tomato""")
)
HEATABLE = frozenset(_words("Apple Bread Cup Egg Mug Plate Potato Tomato"))
COOLABLE = frozenset(_words("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"))
SLICEABLE = frozenset(_words("Apple Bread Egg Lettuce Potato Tomato"))

_TABLE = """AlarmClock Apple Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup
    DishSponge Egg Fork HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil
    PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue
    TissueBox ToiletPaper Tomato Vase Watch WateringCan WineBottle"""
_SHELF = """AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge HandTowel Kettle
    KeyChain Mug Newspaper Pen Pencil PepperShaker Plate Pot RemoteControl SaltShaker SoapBar SoapBottle
    SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle"""
_DESK = """AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup KeyChain Laptop Mug Newspaper Pen
    Pencil Plate RemoteControl SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle"""
_SEAT = "Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"

#: Receptacle -> the objects that can be put into or onto it.
CONTAINS: dict[str, frozenset[str]] = {
    name: frozenset(_words(things))
    for name, things in {
        "ArmChair": _SEAT,
        "BathtubBasin": "Cloth DishSponge HandTowel SoapBar",
        "Bed": "Book CellPhone Laptop Newspaper Pillow",
        "Cabinet": """Book Bowl Box CD Candle Cloth Cup DishSponge HandTowel Kettle Ladle Mug Newspaper Pan
            PepperShaker Plate Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Vase
            WateringCan WineBottle""",
        "CoffeeMachine": "Mug",
        "CoffeeTable": _TABLE,
        "CounterTop": _TABLE,
        "Desk": _DESK,
        "DiningTable": _TABLE,
        "Drawer": """Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain
            Knife Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula
            Spoon SprayBottle TissueBox ToiletPaper Watch WateringCan""",
        "Dresser": _DESK,
        "Fridge": "Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle",
        "GarbageCan": """Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato
            SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Tomato WineBottle""",
        "HandTowelHolder": "HandTowel",
        "LaundryHamper": "Cloth",
        "Microwave": "Apple Bowl Bread Cup Egg Mug Plate Potato Tomato",
        "Ottoman": _SEAT,
        "Safe": "CD CellPhone CreditCard KeyChain Statue Vase Watch",
        "Shelf": _SHELF,
        "SideTable": _TABLE,
        "SinkBasin": """Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork HandTowel Kettle Knife Ladle
            Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato""",
        "Sofa": _SEAT,
        "StoveBurner": "Kettle Pan Pot",
        "Toaster": "",
        "Toilet": """Candle Cloth DishSponge HandTowel Newspaper SoapBar SoapBottle SprayBottle TissueBox
            ToiletPaper""",
        "ToiletPaperHanger": "ToiletPaper",
    }.items()
}


@dataclass(frozen=True)
class Room:
    """A kind of room.

    Attributes:
        always: receptacles that every such room has.
        often: receptacles that it may have; of each kind at most :data:`MOST`.
        things: objects that it may have.
    """

    always: tuple[str, ...]
    often: tuple[str, ...]
    things: tuple[str, ...]


#: The largest number of receptacles of a kind in a room, for kinds with more than one.
MOST = {
    "ArmChair": 2,
    "Cabinet": 8,
    "CounterTop": 3,
    "Drawer": 8,
    "Shelf": 4,
    "SideTable": 2,
    "StoveBurner": 4,
}

ROOMS: dict[str, Room] = {
    "Kitchen": Room(
        _words("CounterTop Fridge Microwave SinkBasin"),
        _words("Cabinet CoffeeMachine DiningTable Drawer GarbageCan Shelf SideTable StoveBurner Toaster"),
        _words("""Apple Bowl Bread ButterKnife Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan
            PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula Spoon Tomato Vase WineBottle"""),
    ),
    "LivingRoom": Room(
        _words("CoffeeTable SideTable Sofa"),
        _words("ArmChair Cabinet DiningTable Drawer Dresser GarbageCan Ottoman Safe Shelf"),
        _words("""Book Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pillow Plate RemoteControl
            Statue TissueBox Vase Watch WateringCan"""),
    ),
    "Bedroom": Room(
        _words("Bed Desk"),
        _words("ArmChair Cabinet Drawer Dresser GarbageCan LaundryHamper Safe Shelf SideTable"),
        _words("""AlarmClock Book Bowl CD CellPhone Cloth CreditCard KeyChain Laptop Mug Pen Pencil Pillow
            TissueBox Watch"""),
    ),
    "Bathroom": Room(
        _words("CounterTop SinkBasin Toilet"),
        _words("BathtubBasin Cabinet Drawer GarbageCan HandTowelHolder Shelf SideTable ToiletPaperHanger"),
        _words("Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper"),
    ),
}

#: The lamp cannot be taken; it is on one of LAMP_STANDS.
LAMP = "DeskLamp"
LAMP_STANDS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable")
