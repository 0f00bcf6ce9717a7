"""How made-up documents begin: stories, news items and letters, put together from words in millions of ways.

A model that goes on from such a beginning writes prose with people in it who go to places, give each other things and
talk. That is what studies of names and of dialogue need, and what documentation does not have.

A pattern is a text with slots, as in "{a} and {b} went to the {place}", each filled at random. The people `a`, `b` and
`c` of a text have different names, with different first letters.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

Kind = Literal["story", "news", "letter"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Choose = Callable[[int], int]
"""A number below the one that is given, at random."""


def _lists(text: str) -> dict[str, tuple[str, ...]]:
    """Words by the slot that they fill; a slot begins where a line does, and goes on where lines are indented."""
    found = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        slot, _, words = entry.partition(": ")
        found[slot] = tuple(re.sub(r"\s+", " ", word).strip() for word in words.split("|"))
    return found


# Most first names are one token, with the space before them, in vocabularies made from English text.
WORDS = _lists("""
name: Aaron | Adam | Alan | Albert | Alex | Alice | Amanda | Amy | Andrea | Andrew | Angela | Anna | Anne | Annie |
  Anthony | Arthur | Ashley | Barbara | Ben | Benjamin | Beth | Bill | Billy | Bob | Bobby | Brandon | Brian | Bruce |
  Carl | Carlos | Carol | Caroline | Catherine | Charles | Charlie | Charlotte | Chris | Christina | Christine |
  Claire | Clara | Colin | Connor | Craig | Crystal | Daniel | David | Dean | Deborah | Dennis | Diana | Diane |
  Donald | Dorothy | Douglas | Dylan | Edward | Eleanor | Elizabeth | Ellen | Emily | Emma | Eric | Ethan | Eva | Evan
  | Florence | Frances | Francis | Frank | Fred | Gary | George | Gordon | Grace | Graham | Grant | Greg | Hannah |
  Harold | Harry | Heather | Helen | Henry | Howard | Ian | Isaac | Jack | Jackie | Jacob | James | Jamie | Jane |
  Janet | Jason | Jean | Jeff | Jennifer | Jeremy | Jerry | Jesse | Jessica | Jill | Jim | Jimmy | Joan | Joe | John |
  Jonathan | Jordan | Joseph | Joshua | Joyce | Juan | Judy | Julia | Julie | Justin | Karen | Kate | Katherine |
  Katie | Keith | Kelly | Ken | Kevin | Kim | Kyle | Larry | Laura | Lauren | Lee | Leo | Leon | Leslie | Lewis | Lily
  | Linda | Lisa | Louis | Louise | Lucas | Lucy | Luke | Margaret | Maria | Marie | Mark | Martha | Martin | Mary |
  Matt | Matthew | Max | Megan | Melissa | Michael | Michelle | Mike | Molly | Nancy | Nathan | Nick | Nicole | Nina |
  Nora | Oliver | Olivia | Oscar | Patricia | Patrick | Paul | Peter | Phil | Philip | Rachel | Ralph | Ray | Rebecca
  | Richard | Robert | Robin | Roger | Ron | Rose | Ross | Roy | Ruby | Russell | Ruth | Ryan | Sally | Sam | Samantha
  | Samuel | Sandra | Sara | Sarah | Scott | Sean | Sharon | Simon | Sophia | Sophie | Stephanie | Stephen | Steve |
  Steven | Stuart | Susan | Taylor | Ted | Teresa | Theresa | Thomas | Tim | Timothy | Todd | Tom | Tony | Tracy |
  Victor | Victoria | Vincent | Walter | Warren | Wendy | William
surname: Adams | Allen | Baker | Barnes | Bell | Bennett | Brooks | Brown | Burke | Campbell | Carter | Clark |
  Coleman | Collins | Cook | Cooper | Cox | Davies | Edwards | Ellis | Evans | Fisher | Fleming | Foster | Garcia |
  Gibson | Gray | Green | Griffin | Hall | Hamilton | Harris | Harvey | Hayes | Hill | Holmes | Hughes | Hunter |
  Jackson | Jenkins | Johnson | Jones | Kelly | Kennedy | King | Knight | Lawson | Lopez | Marshall | Martinez | Mason
  | Mendoza | Miller | Mitchell | Moore | Morgan | Morris | Murphy | Murray | Myers | Nelson | Nguyen | O'Brien |
  O'Connor | Owens | Palmer | Parker | Patel | Perry | Phillips | Porter | Price | Reed | Reynolds | Rivera | Roberts
  | Robinson | Rogers | Russell | Sanders | Shaw | Silva | Simmons | Singh | Spencer | Stevens | Stewart | Sullivan |
  Thompson | Turner | Wagner | Walker | Ward | Watson | Webb | Wells | West | White | Williams | Wilson | Wood |
  Wright | Young
place: airport | bakery | bank | beach | bookshop | bus station | café | castle | cemetery | church | cinema | circus
  | county fair | dance hall | dentist | farm | fire station | garage | garden centre | gym | hairdresser | harbour |
  hospital | hotel | ice rink | kitchen | laundromat | library | lighthouse | market | museum | office | old bridge |
  old mill | orchard | park | pharmacy | playground | police station | post office | prison gate | pub | quarry |
  restaurant | river | school | station | store | supermarket | swimming pool | theatre | town hall | university |
  vineyard | workshop | zoo
thing: a basketball | a birthday card | a black notebook | a blue scarf | a bone | a book of poems | a bottle of wine
  | a bowl of soup | a box of matches | a broken watch | a bunch of keys | a camera | a chess set | a computer | a cup
  of tea | a drink | a fishing rod | a five-pound note | a folded letter | a glass of water | a gold ring | a guitar |
  a jar of honey | a kiss | a kite | a lantern | a leather wallet | a loaf of bread | a map of the valley | a necklace
  | a pair of gloves | a parcel | a photograph | a pocket knife | a puppy | a radio | a raincoat | a red umbrella | a
  sandwich | a silver coin | a slice of cake | a snack | a spare ticket | a suitcase | a sweater | a telescope | a
  torch | a train ticket | a violin | a wooden box | an apple | an envelope | an old bicycle | some flowers | some
  money | the car keys | the last biscuit | the newspaper | the phone | two tickets
time: A week before Christmas | After lunch | After school | At half past seven | At midnight | Before breakfast |
  Early on Monday | Early one morning | In the middle of July | In the spring of 1987 | Just after dawn | Late one
  Friday | Late that night | Long ago | On a wet Tuesday | On her birthday | On New Year's Eve | On Saturday afternoon
  | On the first day of May | On the last day of summer | One cold evening | One Sunday | That autumn | The day after
  the funeral | The next morning | The summer I turned 12 | Three days later | Twenty minutes before closing time |
  Two years after the war | When the rain stopped
errand: buy a present | buy milk and eggs | collect a parcel | feed the ducks | find a doctor | find the dog | get out
  of the rain | hear the news | hide the letter | look at the boats | look for work | mend the roof | pay the rent |
  pick up the children | play chess | return a book | say goodbye | see the new baby | sell the old piano | settle an
  argument | share a pizza | thank the driver | watch the parade | wait for the bus
speech: Don't open it yet | Give it back | Have you seen my brother | He isn't coming, is he | How much did it cost |
  I can't find it anywhere | I didn't do it | I don't believe a word of it | I'll be there by nine | I'm not going
  without you | I've brought you something | I've never been so happy | Is that for me | It's not what you think | It
  wasn't my idea | Let's go home | Nobody told me | Please don't tell anyone | She'd have loved this | That's not mine
  | There's somebody at the door | They've gone | We can't stay here | We're late | What have you done | What's in the
  box | Where did you get that | Who's there | Why didn't you call | Would you hold this for a minute | You can't be
  serious | You'll never guess who I met | You're early | You've grown
said: asked | called | cried | murmured | replied | said | shouted | sighed | whispered | said, laughing | said at
  last | said, without looking up | said quietly | said, and shut the door
met: arrived at | got to | had lunch at | left | met at | ran into each other at | returned from | sat down outside |
  walked past | went to | were on their way to | were working at
gave: brought | gave | handed | lent | offered | passed | promised | sent | showed | sold | threw
felt: afraid of dogs | bored | certain that something was wrong | desperate for money | in a hurry | in love | jealous
  | late again | more tired than usual | new in town | not in the mood to talk | out of breath | proud of the garden |
  soaked to the skin | the youngest of five | too proud to ask | very hungry | worried about the exam
relative: aunt | best friend | boss | brother | cousin | daughter | doctor | father | grandfather | grandmother |
  husband | landlady | mother | neighbour | niece | old teacher | roommate | sister | son | uncle | wife
event: concert | dinner | earthquake | exam | fire | flood | funeral | game | interview | lecture | meeting | party |
  picnic | power cut | race | school play | storm | trial | wedding | wedding rehearsal
job: actor | architect | baker | bus driver | carpenter | chemist | electrician | engineer | farmer | firefighter |
  fisherman | former mayor | gardener | historian | journalist | judge | lawyer | librarian | mechanic | midwife |
  nurse | painter | paramedic | pilot | plumber | postman | professor | retired teacher | shopkeeper | singer |
  student | surgeon | taxi driver | waiter
city: Aberdeen | Atlanta | Austin | Belfast | Birmingham | Boston | Brighton | Bristol | Cambridge | Cardiff | Chicago
  | Cleveland | Dallas | Denver | Detroit | Dublin | Edinburgh | Glasgow | Houston | Leeds | Lincoln | Liverpool |
  London | Manchester | Memphis | Miami | Montreal | Nashville | Newcastle | Norwich | Oakland | Ottawa | Oxford |
  Perth | Philadelphia | Phoenix | Portland | Richmond | Seattle | Sheffield | Sydney | Toronto | Tucson | Vancouver |
  Wellington | York
street: Abbey Road | Bridge Street | Cedar Avenue | Chapel Lane | Elm Street | Garden Row | High Street | Hill Road |
  King Street | Maple Drive | Market Square | Mill Lane | North Road | Oak Street | Park Avenue | Queen Street | River
  Road | Station Road | Victoria Terrace | Willow Way
weekday: Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
month: January | February | March | April | May | June | July | August | September | October | November | December
decision: ban cars from the old town | build 240 new homes | close two libraries | cut bus fares by a third | extend
  the tram line | keep the swimming pool open | lower the speed limit to 20 mph | move the market | plant 10,000 trees
  | raise the price of parking | rename the main square | repair the sea wall | sell the old hospital | turn off
  street lights after midnight
body: the city council | the court | the fire service | the health ministry | the hospital | the local school board |
  the owners | the police | the railway company | the town's mayor | the university | the water company
found: a bag with $40,000 in it | a lost painting | a new species of beetle | a Roman coin | a stolen van | a tunnel
  from the 19th century | a wartime bomb | an injured seal | her grandmother's diary | the missing boat | the wreck of
  a ship | two rare orchids
trouble: a burst water main | a fault in the software | a fire in the roof | a landslide | a strike | a swarm of bees
  | an unpaid bill | high winds | overnight snow | the heavy rain
industry: Airlines | Bank | Breweries | Chemicals | Energy | Foods | Homes | Insurance | Motors | Pharmaceuticals |
  Shipping | Software | Steel | Textiles
matter: a room to rent | my lost luggage | my order of the 3rd | my son's school report | the broken heating | the
  concert on Saturday | the dog at number 12 | the job you advertised | the noise from upstairs | the parking fine |
  the picture in your window | the piano lessons | the plans for the wedding | the tree between our gardens | your
  article on bees | your invoice (no. 4471)
thanks: for coming to see me | for everything you did for mother | for having us last weekend | for looking after the
  cat | for the lovely dinner | for your help with the move | for your kind letter | for your patience
closeness: Dear | Dearest | Hello | Hi | My dear | My dearest
news: I got the job | I've sold the house | I won't be home for Christmas | I'm getting married | I'm not coming back
  | It's a girl | The doctor says I'll be fine | The shop is closing | They've found him | We lost the match | We're
  moving to the coast | You were right about the car
title: Mr. | Mrs. | Ms. | Dr.
""")
NUMBERS = {
    "few": range(2, 12),
    "day": range(4, 20),  # those that are followed by th
    "age": range(11, 91),
    "number": range(12, 892),
    "year": range(1948, 2026),
}

PATTERNS: dict[Kind, tuple[str, ...]] = {
    "story": (
        "{time}, {a} and {b} went to the {place} to {errand}. {a} gave",
        "{time}, {a}, {b} and {c} {met} the {place}. {c} had {thing}, and {a}",
        "When {a} and {b} {met} the {place}, {a} {gave} {thing} to",
        "After {a} and {b} {met} the {place}, {b} {gave} {a} {thing}.",
        "Then {b} and {a} had a long argument about the {event}, and {a} {gave} {thing} to",
        "While {a} was {felt}, {b} {gave} {c} {thing} and",
        '"{speech}," {a} {said}. {b} put down {thing} and',
        '"{speech}?" {a} {said}.\n\n"{speech}," {b} {said}.\n\n',
        "'{speech}!' {said} {a}. {time}, at the {place}, {b} had",
        "{a}'s {relative}, {b}, couldn't find {thing} after the {event}. \"{speech},\"",
        "{a} was {felt}, and {b} wasn't. {time} they {met} the {place}, and",
        "{a} {surname} was a {job} who lived behind the {place} in {city}. {time},",
        "I was {age} when my {relative} {a} took me to the {place}. {b}, who was {felt},",
        "Chapter {few}\n\n{time}, {a} {surname} found {thing} on the steps of the {place}.",
        'The {job} looked at {a} (who was {felt}) and then at {b}. "{speech},"',
        "Nobody at the {place} knew why {a} had left {thing} with {b}. {time},",
        "Once upon a time a {job} called {a} lived near the {place} with {b} and {number} cats.",
        "It was {few} o'clock and {a} hadn't come home from the {event}. {b} asked {c},",
    ),
    "news": (
        "{CITY}, {month} {day} - {body} said on {weekday} that {trouble} had closed the {place}. {a} {surname},",
        "{a} {surname}, {age}, a {job} from {city}, has found {found} near the {place}, {body} said on",
        "The council in {city} voted {few}-{few} on {weekday} to {decision}. {a} {surname}, a {job},",
        "{city} beat {city} {few}-{few} on {weekday}, after {a} {surname} (pictured) scored in the {day}th minute.",
        'A {job} from {city} has won £{number},000. "{speech}," {a} {surname} told',
        "Shares of {surname} {industry} fell {few}.{few}% on {weekday} after {a} {surname}, its chief executive, said",
        "Police in {city} are looking for a man who stole {thing} from the {place} on {street} on {weekday}. {a} "
        "{surname},",
        "{trouble} left {number} people without power in {city} on {weekday} night, {body} said. {a} {surname}, {age},",
        "{a} {surname}, the {job} who found {found} in {year}, died on {weekday} at {age}. {b} {surname},",
        "Plans to {decision} in {city} have been criticised by {a} {surname}, a {job}, who said: \"It's",
        "Two {age}-year-olds, {a} {surname} and {b} {surname}, were rescued from the {place} in {city} on",
        "By {a} {surname}\n\n{CITY} ({month} {day}, {year}) - {number} people came to the {event} at the {place} to",
    ),
    "letter": (
        "{number} {street}\n{city}\n{day} {month} {year}\n\nDear {title} {surname},\n\nI am writing about {matter}.",
        "Dear {title} {surname},\n\nThank you for your letter of {day} {month} about {matter}. Unfortunately,",
        "Dear Sir or Madam,\n\nOn {weekday} my {relative} {a} left {thing} at the {place} in {city}.",
        "{closeness} {a},\n\nIt's {b}. {news}! I haven't told {c} yet, so please",
        "{closeness} {a},\n\nThank you {thanks}. {b} hasn't stopped talking about {thing} that you {gave}",
        "{closeness} {a},\n\nI can't believe it's {few} years since the {event}. Do you remember when {b}",
        "{closeness} {a} and {b},\n\nGreetings from {city}! {time} we {met} the {place}, and",
        '{closeness} {a},\n\nI\'m sorry about the {event}. When you said "{speech}," I',
        "From: {a} {surname}\nTo: {b} {surname}\nSubject: {matter}\n\nHi {b},\n\n{news}. Could you give {c}",
        "{closeness} {a},\n\nPlease find enclosed {thing} for your {relative} {b}. I found it at the {place}",
        "P.S. {news}.\n\n{closeness} {a},\n\nI had meant to write sooner, but {b} and",
        "{city}, {weekday}\n\n{closeness} {a},\n\nYou asked what {b} and I did at the {place}. Well,",
    ),
}


def opening(kind: Kind, choose: Choose) -> str:
    """The beginning of a document, a few dozen tokens, that ends in the middle of something."""
    people: dict[str, str] = {}

    def one_of(words: Sequence[str]) -> str:
        return words[choose(len(words))]

    def word(slot: re.Match[str]) -> str:
        name = slot[1]
        if name in ("a", "b", "c"):
            taken = {person[0] for person in people.values()}
            people[name] = people.get(name) or one_of([other for other in WORDS["name"] if other[0] not in taken])
            return people[name]
        if name in NUMBERS:
            return str(NUMBERS[name][choose(len(NUMBERS[name]))])
        return one_of(WORDS[name.lower()]).upper() if name.isupper() else one_of(WORDS[name])

    text = re.sub(r"\{(\w+)\}", word, one_of(PATTERNS[kind]))
    return text[0].upper() + text[1:]
