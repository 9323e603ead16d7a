"""More plots, told in few words. The template language is that of plots.py."""

SHORT_PLOTS: dict[str, str] = {}

SHORT_PLOTS["short_lost_thing"] = """
One day, {H} lost {his} {thing}. {He} looked {spot1} and {spot2}, but it was not there. {H} was
[very sad|so sad that {he} cried].

{F}, {a friend_kind}, saw {him}. "[Don't cry|Don't be sad], {H}. I will help you," said {F}. They
looked [everywhere|all over {place}]. Then {F} shouted, "[I see it|Here it is]! It is {spot4}!"

{H} was so happy. {He} [hugged|thanked] {F}, and they played with the {it_noun} together all day.
"""

SHORT_PLOTS["short_skill"] = """
{H} wanted to {skill}, but {he} could not. {He} tried and tried. [{He} fell down.|"I can't do it,"
{he} said.] {H} felt sad.

Then {F}, {a friend_kind}, came. "[I can help you|Let me show you]," said {F}. "You must {how}."
{H} tried again. [The first time, it did not work.| It was hard, but {he} did not stop.] Then, at
last, {he} {skilled}!

"[I did it|Look at me]!" said {H}. {F} clapped. {H} was [proud|very happy]. {He} learned to never
give up.
"""

SHORT_PLOTS["short_share"] = """
One day, {H} was playing with {a thing} in {place}. {F}, {a friend_kind}, came and asked, "Can I
play too?" But {H} said, "No, it is mine!" {F} was sad and went away.

Soon, {H} was [bored|lonely]. It was no fun to play alone. {He} thought about {F} and felt bad.
{He} ran after {F} and said, "I am sorry. [We can share|You can play too]."

{F} smiled. They played with the {it_noun} together and had a lot of fun. {H} learned that it is
good to share.
"""

SHORT_PLOTS["short_friend"] = """
But {H} was sad because {he} had no friends. One day, {he} went to {place} and saw {a friend}. {F}
was sitting alone.

"Hello, I am [{H}|new here]," said {H}. "Do you want to play with me?" {F} looked up and smiled.
"[Yes|Yes, I would like that]!" said {F}. They [ran and jumped|played hide and seek] and laughed.

[When it got dark, they had to go home.|Soon it was time to go home.] "Will you come back
tomorrow?" asked {F}. "Yes," said {H}. "We are friends now." From that day on, {H} was never
lonely again.
"""

SHORT_PLOTS["short_rescue"] = """
One day, {H} heard a small voice in {place}. "Help! Help!" It was {a friend}. {F} was {trap}.

"Don't worry, I will help you," said {H}. {He} [pulled and pulled|used a long stick] until {F} was
free. "Thank you! You are so [kind|brave]," said {F}.

{F} wanted to give {H} something. {FHe} gave {him} {a thing}. {H} was happy, but most of all {he}
was happy to have a new friend.
"""

SHORT_PLOTS["short_fear"] = """
{H} was [scared|afraid] of {fear}. One night, {he} could not sleep. {fear_line} {H} [began to
cry|hid under the blanket].

{His} {p} came in. "What is wrong, {H}?" {phe} asked. "I am scared of {fear}," said {H}. {His} {p}
[held {his} hand|gave {him} a hug] and said, "[Don't be afraid|It is okay]. {comfort}."

{H} took a deep breath. {He} was not so scared anymore. {His} {p} gave {him} {his} {thing}, and
soon {he} was asleep. {He} was a brave {kind}.
"""

SHORT_PLOTS["short_danger"] = """
One day, {his} {p} said, "{H}, do not {danger}. {danger_why}." But {H} did not listen. {He}
{danger_act}.

{danger_result} {H} cried. {His} {p} [came fast|ran to {him}] and helped {him}. "I am sorry," said
{H}. "[I will listen next time|I should have listened]."

{His} {p} gave {him} a big hug. From that day on, {H} always listened to {his} {p}.
"""

SHORT_PLOTS["short_broken"] = """
One day, {H} was playing with {F}, {a friend_kind}. They ran too fast, and {H}'s {thing} fell down
and broke. {H} began to cry.

"I am sorry, {H}," said {F}. "[We can fix it|Let's fix it together]." They [got some glue|found
some tape] and worked [slowly|for a long time]. At last, the {it_noun} was [good|like new] again.

"[Thank you|We did it]!" said {H}. {He} was happy. {He} learned that friends can fix many things
when they work together.
"""

SHORT_PLOTS["short_greedy"] = """
One day, {his} {p} made some {foods}. "[These are for later|Please wait for your friend]," said
{his} {p}. But {H} was hungry. {He} ate one, and then another, until they were all gone.

Soon, {his} tummy hurt. {F}, {a friend_kind}, came and asked, "Where are the {foods}?" {H} was
[sad|sorry]. "I ate them all," {he} said.

{H} and {his} {p} made more {foods}. This time, {H} gave {F} the biggest one. They ate and laughed
together. {H} learned not to be greedy.
"""

SHORT_PLOTS["short_gift"] = """
{H} wanted to make {his} {p} happy. "I will give {phim} {a thing}," {he} thought. But {he} did not
have one. {He} asked {F}, {a friend_kind}. "[Let's make one|I can help you make something]," said
{F}.

They worked all day. They made {gift}. Then {H} took it home. "This is for you," {he} said.

{His} {p} was [so happy|surprised]. "[Thank you, {H}|It is so beautiful]!" {phe} said and hugged
{him}. {H} and {F} smiled. They were happy too.
"""

SHORT_PLOTS["short_build"] = """
One day, {H} wanted to build {project}. {He} worked and worked in {place}. But the wind came and
it fell down. {H} was sad.

{F}, {a friend_kind}, saw it. "[Don't give up|Let's try again]," said {F}. "We can do it
together." {F} held the bottom and {H} put on the top. This time, it did not fall.

"[Hooray|We did it]!" they said. They played with it all day. {H} was glad to have a friend like
{F}.
"""

SHORT_PLOTS["short_magic"] = """
One day, {H} found {a thing} {spot1}. It was magic! When {H} touched it, it said, "You can make
one wish."

{H} thought for a long time. {He} could wish for toys or {foods}. But then {he} saw {F},
{a friend_kind}. {F} was [sick and sad|hurt and could not walk]. "I wish that {F} feels better,"
said {H}.

The {it_noun} began to glow, and {F} jumped up. "[I feel good again|I am well]! Thank you, {H}!"
said {F}. They danced and laughed. {H} knew that it was the best wish of all.
"""

SHORT_PLOTS["short_lost_way"] = """
One day, {H} went for a walk in {place}. {He} followed a pretty butterfly and got lost. "[Where is
my home|Oh no, where am I]?" {he} said. {He} was scared and began to cry.

{A friend} heard {him}. "[Don't cry|Don't be afraid]," said {F}. "I know the way." {F} walked with
{H}, past {landmark} and over the hill, until they saw {H}'s home.

{His} {p} ran out and hugged {him}. "Thank you, {F}!" said {H}. {He} never walked away alone
again.
"""

SHORT_PLOTS["short_race"] = """
{H} and {F}, {a friend_kind}, had a race in {place}. {F} was very fast. "[I will win|You are too
slow]," said {F}. They ran and ran. But then {F} fell and hurt {fhis} leg. "Ouch!" cried {F}.

{H} [could run on and win|was in front now], but {he} stopped. {He} went back and helped {F} stand
up. "[I will help you|Let me help you]," {he} said. They walked to the end together.

"Thank you, {H}," said {F}. "You are a good friend." They both won, and they were both happy.
"""

SHORT_PLOTS["short_plant"] = """
One day, {H} put a seed in the ground in {place}. {He} gave it water every day and waited. But
nothing came. {H} was sad.

"[You have to wait|It needs more time]," said {his} {p}. So {H} waited. It rained, and the sun was
warm. One morning, {H} saw a tiny green leaf! "[Look|It is growing]!" {he} said.

The plant grew big, and it had many {foods_garden}. {H} shared them with {F}, {a friend_kind}. {H}
was glad that {he} did not give up.
"""

SHORT_PLOTS["short_mean"] = """
One day, {a friend} took {H}'s {thing}. "It is mine now," said {F}. {H} was
[sad|angry]. {He} wanted to shout, but then {he} saw that {F} was all alone.

"Do you want to play with me?" asked {H} in a kind voice. "We can use the {it_noun} together." {F}
was surprised. "I am sorry," said {F}. "I just wanted a friend."

{F} gave the {it_noun} back, and they played together. {H} learned that being kind is the best way
to make a friend.
"""

SHORT_PLOTS["short_helper"] = """
One day, {H} saw that {his} {p} was very tired. {He} wanted to help. {He} [cleaned the room|washed
the cups|put away the toys], but then oops! {He} dropped the {precious}, and it broke. {H} was
sad.

"I only wanted to help," {he} said. {His} {p} smiled. "I know, {H}. [You have a good heart|Thank
you for helping]. Let's do it together." They cleaned up and made some {foods}.

{F}, {a friend_kind}, came to eat with them. It was a good day, and {H} felt [proud|happy].
"""

SHORT_PLOTS["short_trip"] = """
One day, {H} went to {place} with {his} {p}. {He} took {his} {thing}. It was a [sunny|beautiful]
day. But the wind blew, and the {it_noun} flew away! "Oh no!" said {H}.

{F}, {a friend_kind}, saw it. {F} ran after the {it_noun} and [jumped high|did not stop]. {FHe}
got it! "Here is your {it_noun}," said {F}.

"Thank you!" said {H}. {He} gave {F} some {foods}, and they played until the sun went down. It was
the best day ever.
"""

SHORT_PLOTS["short_sleep"] = """
It was late, and {H} could not sleep. {He} missed {his} {thing}. {He} looked {spot1}, but it was
not there. {H} began to cry.

{His} {p} came in. "What is wrong?" {phe} asked. "I can't find my {thing}," said {H}. They looked
together, and there it was, {spot4}! {H} held it [tight|close].

{His} {p} sang a soft song. {H} closed {his} eyes. [The moon smiled at {him}.|The stars were
bright.] "Good night," {he} said, and soon {he} was asleep.
"""

SHORT_PLOTS["short_hungry"] = """
One day, {H} was very hungry. {He} looked for food in {place}, but there was nothing to eat. Then
{he} met {a friend}. {F} had a big bag of {foods}.

"[Can I have one, please|I am so hungry]," said {H}. {F} looked at the bag. There were not many
left. But {F} was kind. "[Yes, we can share|Here, take half]," said {F}. They sat down and ate
together.

The next day, {H} found a tree full of {foods}. {He} ran to tell {F}. "You shared with me, and now
I share with you," said {H}. They ate until they were full, and they were friends forever.
"""

SHORT_PLOTS["short_different"] = """
But {H} was not like the others. {He} was very [small|big|slow|quiet]. The others laughed at
{him}, and {he} was sad. "I wish I was like them," {he} said.

One day, there was trouble in {place}. {F}, {a friend_kind}, was {trap}. Everyone tried to help,
but no one could. Then {H} came. [{He} had an idea.|{He} was not afraid.] {He} helped {F}, and
soon {F} was free.

"You saved me!" said {F}. The others were sorry. "You are special, {H}," they said. {H} smiled.
{He} was happy to be just who {he} was.
"""

SHORT_PLOTS["short_jump"] = """
One day, {H} saw {a thing} in {place}. "[I want that|It is so pretty]!" {he} said. But it was high
up in a tree. {H} jumped and jumped, but {he} could not get it.

{F}, {a friend_kind}, came by. "[You can stand on me|I can help you]," said {F}. {H} climbed up,
and together they were tall. {H} got the {it_noun}!

"Thank you, {F}," said {H}. "[Let's share it|It is for both of us]." They took the {it_noun} home
and were very happy.
"""
