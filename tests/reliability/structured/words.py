"""What names, towns, goods and sentences are put together from."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines())


FIRST = _words("""
    Ada Bruno Carla Dario Elif Farid Greta Hugo Ines Jonas Kemal Lena Mateo Nadia Oskar Petra Quentin
    Rosa Samir Tilda Umar Vera Wanda Yusuf Zoe Anouk Boris Celia Dmitri Esra
""")
BEGINNINGS = _words("""
    Al Bar Cor Dun Ester Fal Gor Hal Ing Kar Lor Mar Nor Ost Pel Ros Sund Tarn Ul Vel Wes Yar
""")
ENDS = _words("""
    berg bridge by dale ford ham haven holm low mere mouth stad ton vik wick worth
""")
FAMILY = _words("""
    ano ari ecki ens er etti ez ic ier ini kov man nen ova sen ski son ulu
""")
MONTHS = _words("""
    January February March April May June July August September October November December
""")
KINDS = _words("""
    blue red green small large wooden steel folding glass woollen striped heavy
""")
GOODS = _words("""
    lamps chairs mugs rugs clocks shelves baskets kettles pillows ladders trays frames vases stools
""")
COINS = {
    "dollars": "USD",
    "euros": "EUR",
    "pounds": "GBP",
    "yen": "JPY",
    "francs": "CHF",
    "zloty": "PLN",
    "kronor": "SEK",
    "rupees": "INR",
}
ERRANDS = _lines("""
call the bank
water the plants
feed the cat
pay the rent
fetch the parcel
book the dentist
turn off the oven
send the invoice
wash the car
ring my sister
back up the laptop
take out the bins
renew the passport
buy milk
""")
CHAT = _lines("""
Tell me a joke about {city}.
Who wrote the history of {city}?
Can you sing about {city}?
What do people in {city} eat?
How old is {city}?
Write a poem for {city}.
Do you like {city}?
Translate {city} into Latin.
""")
LEADS = (
    "",
    "Please ",
    "Could you ",
    "I need you to ",
    "Hi, can you ",
    "Quick one: ",
    "When you can, ",
    "Kindly ",
)
TAILS = ("", " Thanks!", " Thank you.", " Cheers.", " It is urgent.", " Take your time.")
BOOK = _lines("""
book a room in {city} for {guests} on {date}.
reserve a room for {guests} people in {city}, {date}.
find {guests} of us a place to sleep in {city} on {date}.
get a hotel in {city} on {date}, {guests} guests.
""")
CANCEL = _lines("""
cancel booking {reference}, MONEY.
call off {reference}, MONEY.
drop my reservation {reference}, MONEY.
""")
WEATHER = _lines("""
tell me the weather in {city} on {date}.
check if it rains in {city} on {date}.
say how warm {city} will be on {date}.
look up the forecast of {date} for {city}.
""")
CONVERT = _lines("""
convert {amount} {source} to {target}.
change {amount} {source} into {target}.
say what {amount} {source} are in {target}.
work out {amount} {source} as {target}.
""")
REMIND = _lines("""
remind me at {time} to {text}.
set a reminder to {text} at {time}.
wake me at {time}, I have to {text}.
nudge me to {text} when it is {time}.
""")
HELLO = _lines("""
Hello,
Hi there,
Dear team,
Good morning,
To the shop,
Hey,
Good day,
Dear sirs,
""")
WANT = _lines("""
I would like {quantity} {item}.
please send {quantity} {item}.
we need {quantity} {item}.
can I get {quantity} {item}?
my order: {item}, {quantity} of them.
put me down for {quantity} {item}.
we are out of {item}, so {quantity} please.
{quantity} {item}, as last year.
""")
WHERE = _lines("""
Deliver to {city} by {date}.
They go to {city}, on {date}.
By {date} please, in {city}.
Ship it to our house in {city} before {date}.
{city} is the place, {date} the day.
I am in {city} until {date}.
We open in {city} on {date}.
""")
FAST = _lines("""
Send it express.
Express, please.
The fast post, I pay for it.
Use the express courier.
""")
BYE = _lines("""
Regards, {customer}
Yours, {customer}
{customer}
Best wishes from {customer}
Thanks! {customer}
""")
SLOW = ("", "No hurry with the post.", "Standard post will do.", "The cheap post is fine.")
