"""Openings that ask for something, and the plots that answer them.

A cue is what a first sentence promises: somebody wants something, cannot do it, has lost or found
a thing, hears a noise. Each has openings of its own (`#` between them) and plots that go on from
there; corpus.py looks for the same cues in the openings of TinyStories. The template language is
that of plots.py, with `{want}`, a verb phrase without pronouns ("see the ocean").
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lexicon import phrases

CUE_PLOTS: dict[str, str] = {}


@dataclass(frozen=True)
class Cue:
    openings: tuple[str, ...]
    plots: tuple[str, ...]
    things: Sequence[str] = ()  # what `{thing}` is, if it cannot be just anything
    wants: Sequence[str] = ()  # forms of `{want}`; their own slots are filled by grammar.py
    strangers: int = 0  # 1: the hero has no name; 2: nor has the friend


def _openings(text: str) -> tuple[str, ...]:
    return tuple(opening.strip() for opening in text.split("#"))


# What somebody wants to do, cannot do, or will not do, with slots that grammar.py fills
WISHES = phrases(
    "see {sight}|see {sight}|see {sight}|see a {noun}|touch {sight}|visit {sight}|go to {spot}|"
    "go to {spot}|travel to {spot}|live in {spot}|climb {high}|ride a {noun}|ride on a {noun}|"
    "find a {noun}|find a friend|find a treasure|find the {noun}|have a {noun}|have a pet {noun}|"
    "be a {noun}|be a {job}|be a {job}|become a {job}|meet a {noun}|meet the {job}|"
    "play the {instrument}|bake a {food}|eat a {food}|catch a {noun}|catch a star|make a {noun}|"
    "build a {noun}|draw a {noun}|drive a {noun}|{skill}|{skill}|{feat}"
)
ABILITIES = phrases(
    "{skill}|{skill}|climb {high}|climb {high}|reach the {noun}|open the {noun}|"
    "lift the {noun}|find the {noun}|stop the {noun}|see the {noun}|push the {noun}|"
    "catch the {noun}|bake a {food}|play the {instrument}|hear the {noun}|cross the river|"
    "jump over the {noun}|{feat}|{feat}|{feat}|{feat}"
)
DUTIES = phrases(
    "{duty}|{duty}|{duty}|{duty}|{duty}|{duty}|eat the {food}|wear the {noun}|"
    "play with the {noun}|share the {food}|share the {noun}|clean the {noun}|carry the {noun}|"
    "go to {spot}|feed the {noun}|wash the {noun}|{skill}|{skill}|help the {job}"
)
EGGS = phrases("big|blue|green|strange|golden|glowing|white|spotted|tiny|red|warm|shiny")
TREATS = phrases(
    "cake|chocolate cake|pie|apple pie|cookies|candy|ice cream|pizza|bread|sandwich|popcorn|"
    "birthday cake|toys|new toys|blocks|crayons|ball|red ball|doll|swing|bike|blanket|umbrella|"
    "kite|honey|nuts|berries|carrots|cheese|fish|bone"
)

CUE_PLOTS["want_journey"] = """
But {he} did not know how. "[Who can help me|How can I {want}]?" {he} asked. {F}, {a friend_kind},
heard {him}. "[I can help you|I know what to do], {H}," said {F}. "[Come with me|Follow me]."

They walked past {landmark} and over the hill. [It was a long way, and {H} was tired.|Then it
began to rain, and {H} wanted to go home.|{H} asked, "Is it still far?"] "[Don't give up|We are
almost there|It is not far now]," said {F}. [So {H} went on.|They went on, step by step.]

At last, {H} could {want}! {He} [was so happy that {he} danced|laughed and clapped|smiled a big
smile]. "Thank you, {F}," {he} said. "[You are a good friend|Now my wish came true|This is the
best day ever]." {H} never forgot that day.
"""

CUE_PLOTS["want_try"] = """
{He} tried in the morning, and {he} tried in the evening, but {he} could not {want}. [The others
laughed at {him}.|"I can't do it," {he} said.|{H} sat down and cried.]

{F}, {a friend_kind}, came by. "Why are you sad, {H}?" asked {F}. "I want to {want}, but I can't,"
said {H}. {F} [thought for a moment|smiled]. "[Let's try together|I will help you]," said {F}.
"One, two, three!" [The first time, it did not work.|It was hard, but {H} did not stop.]

Then {H} tried once more. And now {he} could {want}! "[Look|We did it], {F}!" {he} shouted. {F}
clapped. {H} learned [never to give up|that it helps to have a friend].
"""

CUE_PLOTS["want_parent"] = """
"[Can I|May I] {want}, please?" {he} asked {his} {p}. "[Not today|Not now|Maybe later]," said
{his} {p}. "[First we have a lot of work to do|First you must clean your room|You are still too
little]." {H} was sad.

{F}, {a friend_kind}, said, "[I can help you with the work|Don't be sad. We can ask again]." They
[worked all day|cleaned the whole house] together. {His} {p} came and saw it. "[You did a good
job|I am so proud of you]!" {phe} said. "Now I will take you both."

So in the end, {H} could {want}, and {F} came too. They [laughed all the way home|were very
happy]. {H} learned that good things come when you wait and help.
"""

CUE_PLOTS["want_star"] = """
One night, {H} looked out and saw a little star fall from the sky. It fell down near {landmark}.
{H} ran to it. "[Thank you for finding me|You are kind]," said the star. "You can make one wish."

"I wish to {want}," said {H}. The star [glowed|began to shine], and then it flew back into the
sky. {H} went to sleep.

The next morning, {F}, {a friend_kind}, [came to {him}|knocked at the door]. "[Come quick|Get up],
{H}! Today you can {want}!" said {F}. And it was true! {H} was so happy. That night, {he} looked
up at the star and said, "Thank you."
"""

CUE_PLOTS["refuse_try"] = """
"I do not want to {want}," said {H}. [{He} shook {his} head.|{He} hid {spot1}.|{He} was very
cross.] {His} {p} asked {him}, but {H} said, "No!"

Then {F}, {a friend_kind}, came. "Why do you not want to {want}?" asked {F}. "[I am afraid|It is
no fun|I do not know how]," said {H}. "[I was afraid too, but it is not bad|I will do it with
you]," said {F}. "[We can do it together|Just try it once]."

So {H} tried to {want}. At first it was [hard|strange], but then {he} began to smile. "[This is
fun|It is not so bad]!" said {H}. {F} laughed. From that day on, {H} was happy to {want}.
"""

CUE_PLOTS["refuse_need"] = """
Everyone asked {him} to {want}, but {H} always said, "No, I will not." {He} [sat all alone|went
away] and was cross.

One day, {F}, {a friend_kind}, came to {him} and cried. "Please help me, {H}," said {F}. "I need
you to {want}." {H} looked at {F} and felt sorry. "[Don't cry|All right]," {he} said. "I will
{want} for you."

And {he} did. {F} was so happy and hugged {him}. "Thank you, {H}! You are [kind|the best]," said
{F}. {H} felt warm inside. {He} learned that it feels good to help a friend.
"""

CUE_PLOTS["found_owner"] = """
"[Whose {it_noun} is this|Who lost this {it_noun}]?" {he} asked. {H} wanted to keep it. [It was so
pretty.|{He} held it tight.]

On the way home, {he} met {F}, {a friend_kind}. {F} was crying. "What is wrong?" asked {H}. "I
lost my {it_noun}," said {F}. "[My grandma gave it to me|I looked everywhere]." {H} looked at the
{it_noun}. It was hard to give it back, but {he} knew it was right. "Here it is," {he} said. "I
found it."

{F} [jumped for joy|smiled and hugged {him}]. "Thank you, {H}! [Let's play with it together|You
are so kind]." So {H} had no {it_noun}, but {he} had a new friend.
"""

CUE_PLOTS["found_magic"] = """
[Suddenly|Then|At night], the {it_noun} began to [glow|shine|shake]. "Hello, {H}," it said. "I am
a magic {it_noun}. You can make one wish."

{H} thought for a long time. {He} could wish for toys or {foods}. But then {he} saw {F}, {a
friend_kind}. {F} was [sick and sad|hurt and could not walk]. "I wish that {F} feels better," said
{H}.

The {it_noun} glowed again, and {F} jumped up. "[I feel good again|I am well]! Thank you, {H}!"
said {F}. They danced and laughed. {H} put the {it_noun} back {spot2}, so that someone else could
find it.
"""

CUE_PLOTS["found_home"] = """
{H} took the {it_noun} home and showed it to {his} {p}. "[How pretty|What a nice {it_noun}]!" said
{his} {p}. "[Take good care of it|Put it in a safe place]." {H} put the {it_noun} {spot1}.

But the next day, it was gone! {H} looked {spot2} and {spot3}. {He} began to cry. {F}, {a
friend_kind}, came to help. "[Look|Come here], {H}," said {F}. "A little {small} has it!" The
{small} was sleeping on the {it_noun}. {H} laughed. "[It likes my {it_noun} too|It must be
tired]," {he} said.

{H} and {F} gave the {small} a soft blanket, and {H} got the {it_noun} back. From that day on, the
three were friends.
"""

CUE_PLOTS["egg"] = """
{H} took the egg home and put it in a warm blanket. {He} kept it warm day and night. "What is in
it?" asked {F}, {a friend_kind}. "I don't know," said {H}. "We must wait."

One morning, the egg began to shake. Crack! A little {hatchling} looked out. "[Hello, little
{hatchling}|It is a {hatchling}]!" said {H}. The {hatchling} was hungry, so {H} gave it some
{foods}. It ate them all and smiled.

The {hatchling} grew and grew. One day, its mom came to look for it. {H} was sad to say goodbye,
but {he} was happy for the {hatchling}. "[Come and see us|I will not forget you]!" said {H} and
waved.
"""

CUE_PLOTS["noise_guest"] = """
{H} was a little scared, but {he} wanted to know what it was. {He} walked slowly, step by step.
"Who is there?" {he} asked.

It was {a friend}! {F} was [looking for food|hiding {spot2}|sitting on the floor]. "[Please don't
be afraid|I am sorry], I am so hungry," said {F}. {H} was not scared anymore. "[You can eat with
me|I have some {foods}]," {he} said. {H} gave {F} some {foods}, and {F} ate and ate.

"Thank you, {H}," said {F}. "[You are kind|No one was ever so kind to me]." They played together
until bedtime. {H} was glad that {he} had been brave.
"""

CUE_PLOTS["noise_surprise"] = """
"What is that?" said {H}. {He} took a deep breath and went to look. {He} [looked {spot1}|opened
the door slowly], but there was nothing. Then the noise came again. Bump, bump, bump!

"Surprise!" It was {F}, {a friend_kind}, with a big cake. "[Happy birthday, {H}|This is for you]!"
said {F}. {H} was so surprised that {he} laughed. "[I was scared of the noise|I thought you were a
monster]!" {he} said.

{F} laughed too. They ate the cake and sang songs. It was the best day ever.
"""

CUE_PLOTS["hungry_soup"] = """
{He} looked for food, but there was nothing to eat. {His} tummy was empty. {H} went out and met
{F}, {a friend_kind}. "[I am so hungry|Please help me], {F}," said {H}. "I only have one
carrot," said {F}. "But we can make soup!"

{F} put the carrot in a big pot. {H} found some [beans|potatoes|peas|tomatoes|mushrooms] and put
them in. They [stirred and stirred|waited and sang]. Soon it smelled so good!

{H} and {F} ate until they were full. "[Yum|This is the best soup ever]!" said {H}. "It tastes
good because we made it together," said {F}. {H} was not hungry anymore, and {he} had a friend.
"""

CUE_PLOTS["hungry_share"] = """
{He} went to {place} to look for food. There {he} met {a friend}. {F} had a big bag of {foods}.
"Can I have one, please?" asked {H}. {F} looked at the bag. There were not many left. But {F} was
kind. "[Yes, we can share|Here, take half]," said {F}.

They sat down and ate together. {H} was full and happy. "Thank you, {F}," {he} said.

The next day, {H} found a tree full of {foods}. {He} ran to tell {F}. "You shared with me, and now
I share with you," said {H}. They ate until they were full, and they were friends forever.
"""

CUE_PLOTS["lost_found"] = """
{He} looked {spot1} and {spot2}, but it was not there. {H} was [very sad|so sad that {he} cried].

{F}, {a friend_kind}, saw {him}. "[Don't cry|Don't be sad], {H}. I will help you," said {F}. They
looked [everywhere|all over {place}]. Then {F} shouted, "[I see it|Here it is]! It is {spot4}!"

{H} was so happy. {He} [hugged|thanked] {F}, and they [played|sang and danced] together all day.
From that day on, {H} took good care of {his} {it_noun}.
"""

CUE_PLOTS["lost_given"] = """
{H} asked everyone, "Have you seen my {it_noun}?" But no one had seen it. {H} sat down and cried.

Then {he} saw {F}, {a friend_kind}. {F} was wearing a sad face. {FHe} had found the {it_noun}
{spot1} and wanted to keep it. But now {F} saw {H} cry. "[I am sorry|Don't cry], {H}," said {F}.
"Here is your {it_noun}. I should have given it back."

{H} smiled. "Thank you, {F}," {he} said. "[You were honest|We can share it]." So they shared the
{it_noun}, and they were good friends.
"""

CUE_PLOTS["stuck"] = """
{H} jumped and jumped, but {he} could not get it. {He} threw a stick, but it did not help. "[Oh
no|What can I do]?" said {H}.

{F}, {a friend_kind}, came by. "[You can stand on me|I can help you]," said {F}. {H} climbed up,
and together they were tall. {H} [pulled and pulled|reached up]. The {it_noun} was free!

"Thank you, {F}," said {H}. "[Now we can both play with it|Let's play together]." They played with
the {it_noun} until the sun went down.
"""

CUE_PLOTS["selfish"] = """
"[It is mine|This is all for me]," said {H}. {F}, {a friend_kind}, asked, "Can I have some,
please?" But {H} said, "No!" {F} was sad and went away.

{H} sat down with the {it_noun} all alone. [It was no fun.|It was very quiet.] {He} thought about
{F} and felt bad. {He} ran after {F} and said, "I am sorry. We can share the {it_noun}."

{F} smiled. They sat in the sun and shared the {it_noun}. "It is much better with a friend," said
{H}. From that day on, {H} [always shared|liked to share].
"""

CUE_PLOTS["met_river"] = """
"Hello," said {H}. "Hello," said {F}. They both wanted to go to the other side, but the water was
[deep and cold|too fast]. "I can't swim," said {H}. "[I can't swim too|I am afraid]," said {F}.

{H} looked around and saw a long log. "[Let's push it into the water|We can make a bridge]," {he}
said. {H} pushed and {F} pulled. It was hard work, but they did not stop. Splash! The log fell
over the water, and now there was a bridge.

{H} and {F} walked over it together. "We are a good team," said {F}. From that day on, they were
best friends.
"""

CUE_PLOTS["met_friends"] = """
"[What are you doing here|Who are you]?" asked {F}. "I am looking for a friend," said {H}. {F}
laughed. "[You are not like me|We are so different]. How can we be friends?"

"We can try," said {H}. So they played hide and seek. Then {F} fell into a deep hole. "Help!"
cried {F}. {H} [found a long rope|got a long stick] and pulled {fhim} out.

"Thank you, {H}," said {F}. "[I was wrong|You are a true friend]." {H} smiled. They learned that
friends do not have to be alike.
"""

CUE_PLOTS["play_away"] = """
They [played and laughed|had a lot of fun]. Then the {it_noun} [flew over the fence|rolled down
the hill|fell into the water]. "Oh no!" said {H}. "[It is gone|How can we get it back]?" said {F}.

They ran after it. There they saw a big dog. The dog had the {it_noun}! {H} was scared. But {F}
said, "[Nice dog|Good dog]. Please give it back." The dog [wagged its tail|looked at them] and put
the {it_noun} down.

"[It wants to play too|It is a kind dog]!" said {H}. So {H}, {F}, and the dog played with the
{it_noun} together until it was time to go home.
"""

CUE_PLOTS["play_fight"] = """
"It is my turn," said {H}. "No, it is my turn," said {F}. They both pulled at the {it_noun}. Snap!
It broke. {H} and {F} [began to cry|were very sad].

"I am sorry, {F}," said {H}. "I am sorry too," said {F}. "[Let's fix it|We can fix it together]."
They got some tape and worked slowly. At last, the {it_noun} was like new again.

"[Now you can go first|You can play first]," said {H}. "[No, you|Let's play together]," said {F}.
They laughed. They learned that it is better to take turns.
"""

CUE_PLOTS["secret_box"] = """
{F}, {a friend_kind}, wanted to know what was in it. "Please, can we open it?" asked {F}. "No,"
said {H}. "[It is a secret|Not yet]."

One rainy day, {F} was sad. {H} smiled and took a small key. "[Today we will open it|I will show
you now]," said {H}. {F} held {fhis} breath. The key turned. Click! Inside was {a thing}. "[I
played with it when I was little|My grandma gave it to me]," said {H}. "And now it is for you."

{F} was so happy. {FHe} hugged {H}, and they played with the {it_noun} all day. It was the best
secret of all.
"""

CUE_PLOTS["visitor"] = """
{F}, {a friend_kind}, saw {him} from the window. "What are you looking for?" asked {F}. {H} was
shy and wanted to run away. "[Don't go|Please stay]," said {F}. "[I will not hurt you|I want to be
your friend]."

{H} stopped. "I am hungry," {he} said in a small voice. {F} ran inside and came back with some
{foods}. {H} ate them all. "Thank you," said {H}. "[They are so good|You are kind]."

The next time, {F} was waiting with more {foods}. They ate, and they looked at the stars. And so
{H} and {F} became good friends.
"""

CUE_PLOTS["sad_friend"] = """
{F}, {a friend_kind}, saw {him}. "Why are you so sad, {H}?" asked {F}. "[I have no one to play
with|Nobody likes me|I am all alone]," said {H} and cried.

"[I like you|I will be your friend]," said {F}. "[Let's play hide and seek|Come and play with
me]!" {H} wiped {his} eyes. They ran and jumped and laughed all day. {F} showed {H} {a thing}, and
they played with it together.

When it got dark, {H} was not sad anymore. "Will you come back tomorrow?" {he} asked. "Yes," said
{F}. "We are friends now." And {H} smiled.
"""

CUE_PLOTS["slow"] = """
But the others were fast, and {H} was slow. Soon {he} was all alone. "[They forgot me|I am too
slow]," {he} said and sat down.

Then {F}, {a friend_kind}, came back. "[There you are|I missed you], {H}," said {F}. "I am sorry
that we did not wait. [We can go together|I will walk with you]." {H} stood up and smiled. They
walked slowly, and they saw many things that the others did not see. They found {a thing} {spot4}!

"[Wow|How pretty]!" said the others when they saw it. "Next time, we will wait for you." {H} was
proud and happy.
"""

CUE_PLOTS["dark_light"] = """
{H} was scared of the dark. "[I can't see a thing|It is so dark]," {he} said. Then {he} saw a tiny
light. It was {F}, {a friend_kind}, with a [lamp|candle]. "[Don't be afraid|I am here], {H}," said
{F}.

They walked through the dark together. "Look, it is only [an old chair|a coat on the wall|a
sleeping cat]," said {F} and laughed. {H} laughed too. It was not so scary with a light and a
friend.

They [told stories|sang songs] until the sun came up. "I am not scared of the dark anymore," said
{H}.
"""

CUES = {
    "want": Cue(
        _openings("""
            [Once upon a time|Once|One day|Long ago], there was {a hero_intro} who wanted to {want}.
            #
            [Once upon a time|Once], there was {a hero_intro}. {H} wanted to {want}[ more than
            anything|].
            #
            {H} wanted to {want}.
            #
            {H} was {a trait kind}. [{He} lived in {home}. |]{He} wanted to {want}.
            #
            "I want to {want}," said {H}. {He} was {a trait kind}.
            #
            {H} was tired of {home}. {He} wanted to {want}.
            #
            There was once {a hero_intro} who dreamed of one thing. {He} wanted to {want}.
            #
            One [sunny |rainy |cold |]day, {H} wanted to {want}.
        """),
        ("want_journey", "want_try", "want_parent", "want_star"),
        wants=WISHES,
    ),
    "cannot": Cue(
        _openings("""
            [Once upon a time|Once|Once], there was {a hero_intro} who could not {want}.
            #
            {H} could not {want}.
            #
            {H} was sad because {he} could not {want}.
            #
            {H} was {a trait kind}, but {he} could not {want}.
            #
            [Once upon a time|Once], there was {a hero_intro}. {H} could not {want} like the others.
            #
            [In|Near] {home}, there lived {a hero_intro} who could not {want}.
        """),
        ("want_journey", "want_try", "want_try", "want_star"),
        wants=ABILITIES,
    ),
    "refuse": Cue(
        _openings("""
            [Once upon a time|Once|There once], there was {a hero_intro} who did not want to {want}.
            #
            {H} did not want to {want}.
            #
            There was once {a hero_intro} who [never wanted|did not like] to {want}.
            #
            {H} was {a trait kind}, but {he} did not want to {want}.
            #
            "I will not {want}!" said {H}. {He} was {a trait kind} who lived in {home}.
        """),
        ("refuse_try", "refuse_need"),
        wants=DUTIES,
    ),
    "found": Cue(
        _openings("""
            One [rainy day|morning|day|sunny day], {H} found {a thing}[ {spot4}|].
            #
            [Once upon a time|Once], there was {a hero_intro} who found {a thing}[ {spot4}|].
            #
            {H} was [walking|playing] in {place}. [There|Then] {he} [found|saw] {a thing}.
            #
            {A thing} lay {spot4}. {H} saw it and picked it up.
            #
            [Once upon a time|One day], {a hero_intro} found {a thing} in {place}.
        """),
        ("found_owner", "found_magic", "found_home"),
    ),
    "egg": Cue(
        _openings("""
            One [day|morning], {H} found {a thing} in {place}.
            #
            [Once upon a time|Once], there was {a hero_intro} who found {a thing}.
            #
            {H} was walking in {place}. There {he} saw {a thing}. It was all alone.
        """),
        ("egg",),
        things=[f"{look} egg" for look in EGGS],
    ),
    "noise": Cue(
        _openings("""
            One [morning|night|evening|day], {H} heard a [strange|funny|loud|small] [noise|sound]
            {noise_place}.
            #
            {H} was in bed when {he} heard a [strange|loud|funny] noise {noise_place}.
            #
            [Once upon a time|One day], {a hero_intro} heard a [strange|small] noise {noise_place}.
            #
            Bump! There was a noise {noise_place}. {H} sat up.
        """),
        ("noise_guest", "noise_surprise"),
    ),
    "hungry": Cue(
        _openings("""
            {H} woke up hungry.
            #
            {H} the {kind} woke up very hungry.
            #
            {H} was [so|very] hungry.
            #
            [Once upon a time|One day], {a hero_intro} was very hungry.
            #
            {H} was {a trait kind} who was always hungry.
        """),
        ("hungry_soup", "hungry_share"),
    ),
    "lost": Cue(
        _openings("""
            One [day|morning], {a hero_intro} lost {his} {thing}.
            #
            {H} [lost|could not find] {his} {thing}.
            #
            {H} had lost {his} {thing}. It was {his} favorite {it_noun}.
            #
            "Where is my {thing}?" [asked|cried] {H}.
            #
            {H} was sad because {he} had lost {his} {thing}.
        """),
        ("lost_found", "lost_found", "lost_given"),
    ),
    "stuck": Cue(
        _openings("""
            {H}'s {thing} was stuck in a tree.
            #
            One day, {H}'s {thing} flew up into a tall tree. It was stuck.
            #
            {H} threw {his} {thing} up high, and it got stuck on the roof.
            #
            The wind blew {H}'s {thing} up into a tree.
        """),
        ("stuck",),
    ),
    "selfish": Cue(
        _openings("""
            {H} did not want to share {his} {thing}.
            #
            {H} loved {his} {thing} and did not want to share.
            #
            Once, there was {a hero_intro} who did not want to share {his} {thing}.
            #
            {H} had {his} {thing} and did not want to give any to the others.
        """),
        ("selfish",),
        things=TREATS,
    ),
    "met": Cue(
        _openings("""
            {A bare kind} and {a bare friend} met at the [river|lake|pond].
            #
            One day, {a bare kind} and {a bare friend} met near the [river|water].
            #
            One day, {a bare kind} met {a bare friend} [by the river|at the lake].
        """),
        ("met_river", "met_friends"),
        strangers=2,
    ),
    "play": Cue(
        _openings("""
            {H} and {F} were playing with {a thing}.
            #
            {H} and {F} were [in {place}|outside]. They [had|were playing with] {a thing}.
            #
            [Once upon a time, there were|There were] two friends, {H} and {F}. One day, they were
            playing with {a thing}.
            #
            {H} and {F} liked to play with {a thing}. They were [good|best] friends.
        """),
        ("play_away", "play_fight"),
    ),
    "secret": Cue(
        _openings("""
            {H} had a [wooden|big|small|old|red|blue] [chest|box|bag] that [nobody|no one] was
            allowed to [open|touch].
            #
            There was a [locked|secret|little] [door|drawer|box] in the house of {H}.
            [Nobody|No one] was allowed to open it.
            #
            {H} had a secret box. It was always [closed|locked].
        """),
        ("secret_box",),
    ),
    "visitor": Cue(
        _openings("""
            Every [night|evening|morning|day], {a bare kind} came to the [garden|farm|house|window].
            #
            Every [night|evening|morning], when it was quiet, {a bare kind} came to the [yard|old
            house|pond].
            #
            One night, {a bare kind} came to the [garden|yard|farm].
        """),
        ("visitor",),
        strangers=1,
    ),
    "sad": Cue(
        _openings("""
            {H} was [sad|lonely].
            #
            {H} was sad because {he} [had no friends|was all alone|had no one to play with].
            #
            [Once upon a time|Once], there was {a hero_intro} who was [always sad|very lonely].
            #
            {A hero_intro} lived [all |]alone in {home}. {He} was lonely.
        """),
        ("sad_friend", "visitor"),
    ),
    "slow": Cue(
        _openings("""
            "[Wait for me|Don't go so fast|Please wait]!" [shouted|cried|called] {H}.
            #
            {H} was the [smallest|slowest] of all. "Wait for me!" {he} [shouted|cried|called].
        """),
        ("slow",),
    ),
    "dark": Cue(
        _openings("""
            The [old|big|little|] {building} was very dark that night. {A hero_intro} was there all
            alone.
            #
            It was a dark night. {A hero_intro} [could not sleep|was all alone in the {building}].
            #
            The {building} was dark and quiet. {H} was inside.
            #
            The lights went out, and it was very dark. {H} [was in bed|stood still].
        """),
        ("dark_light",),
    ),
}
