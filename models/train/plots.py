"""The plots of the story grammar, in a small template language.

`[a|b|c]` chooses one, brackets nest, an empty choice is allowed. `{H}` is the hero and `{F}` the
friend, with `{he} {him} {his} {himself}` and `{fhe} {fhim} {fhis}`; `{p}` is the hero's parent
with `{phe} {phim}`; `{thing}` the object of the story, `{it_noun}` its bare noun; `{place}` where
it happens; `{skill} {skilling} {skilled} {how}` what the hero learns; other slots are drawn from
the lexicon. A line break inside a paragraph is a space. The opening, which presents the hero, is
chosen by grammar.py or given; each plot goes on from there to a wish or a trouble and an ending.
"""

PLOTS: dict[str, str] = {}

PLOTS["lost_thing"] = """
{H} had {a thing}. [It was {his} favorite thing.|{He} loved it very much.|{He} took it
everywhere.| {His} grandma gave it to {him}.] [Every day, {he} played with it.|Every night, {he}
kept it near {his} bed.|]

But one [day|morning|evening], the {it_noun} was [gone|not there|missing]! {H} [was very sad| felt
sad|began to cry|was worried]. "[Oh no! ||]Where is my {thing}?" {he} [said|asked|cried]. {He}
looked {spot1}, but it was not there. {He} looked {spot2}, but [it was not there|there was only
dust|{he} found only an old leaf].

[Then|Just then|Soon], {F}, {a friend_kind}, came by. "Why are you sad, {H}?" asked {F}. "I lost
my {thing}," said {H}. "Don't [worry|cry]," said {F}. "[I will help you look.|We can look
together.| Let's look together.|Two are better than one.]"

{H} and {F} looked and looked. [They looked {spot3}.|They walked to {place}.|They asked everyone
they met.] At last, {F} saw something {color} {spot4}. "[Look!|Come here!|Is this it?]" said {F}.
It was the {it_noun}! {H} [jumped up and down|was so happy|laughed and clapped]. "Thank you, {F}!
You are [a good friend|so kind|the best]," {he} said.

[From that day on, {H} always put the {it_noun} in a safe place.|{H} let {F} play with the
{it_noun} too, and they [had fun|played] all [day|afternoon].|{H} gave {F} a big hug, and they
went home together.] [{H} learned that a friend makes every trouble smaller.|They were best
friends from that day on.|And {H} never lost the {it_noun} again.]
"""

PLOTS["skill"] = """
{H} had a [big|secret|special|] wish. {He} wanted to {skill}. [But {he} did not know how.|But {he}
could not do it.] [Every day, {he} watched the others {skill}.|{He} dreamed about it every
night.|All {his} friends could {skill}, but {H} could not.]

One [day|sunny day|morning], {H} [tried|went to {place} and tried]. [Oops! It did not work.|{He}
tried once, and {he} tried twice, but it did not work.|It was very hard, and {he} fell down.]
[Some of the others laughed at {him}.|{He} felt sad and wanted to stop.|"I will never learn to
{skill}," {he} said, and a tear ran down {his} face.]

{F}, {a friend_kind}, saw {him}. "[What is wrong|Why are you sad], {H}?" {fhe} asked. "I want to
{skill}, but I can't," said {H}. {F} smiled. "I could not do it at first either. [I can show
you.|Let me help you.|You just need to practice.] You have to {how}."

{H} [listened well|nodded]. {He} tried again. [{F} stayed with {him} and helped.|Every day, they
practiced together.| The first day was hard. The next day was better.] [{H} did not give up.|{H}
kept trying.] [Then, one day,|At last,|And then,] {he} {skilled}! "I did it! [I can do it!|Look at
me!|]" {he} [shouted|said]. {F} [clapped and cheered|was very proud|smiled a big smile].

[Everyone came to see, and they all cheered.|{H} was so happy that {he} did it all day long.|Now
{H} could {skill} with {his} friends.] "Thank you for helping me, {F}," {he} said. {H} learned
that [if you try and try, you can do it|you should never give up|hard things get easy if you
practice|it is good to ask a friend for help].
"""

PLOTS["sharing"] = """
One day, {H} got {a thing} from {his} {p}. [{He} was so happy.|It was new and shiny.|{He} ran out
to play with it.] {F}, {a friend_kind}, saw it. "Can I play [with it |]too?" asked {F}. "No!" said
{H}. "It is mine. [I don't want to share.|You can not have it.]"

{F} was sad and [went away|sat down alone|walked home]. {H} played with the {it_noun} alone. At
first it was fun. But after a while, {he} was [bored|lonely]. [There was no one to laugh with.|It
was not much fun to play alone.] [Then {he} pulled too hard, and the {it_noun} broke!|{He} looked
at {F} and felt bad.]

{His} {p} [saw {him}|came] and asked, "[What is wrong|Why do you look sad], {H}?" {H} told {phim}.
{His} {p} said, "[Things are more fun when you share.|A friend is better than any
{it_noun}.|Sharing makes two people happy.] [Go and say sorry to {F}.|Why don't you ask {F} to
play?]"

{H} [went to find|ran to] {F}. "I am sorry I was [mean|selfish]," {he} said. "[Do you want to play
with me?|We can take turns.|You can go first.]" {F} smiled and said, "[Yes, please!|Yes! Thank
you, {H}.|It's okay. Let's play!]" [They fixed the {it_noun} together. |]They played with the
{it_noun} until [the sun went down|it was time to go home].

{H} was happy. {He} learned that [sharing is good|it is more fun to share|a good friend shares].
[From that day on, {H} and {F} shared everything.|And {H} and {F} were friends again.|The end.]
"""

PLOTS["honest"] = """
One day, {H} was playing [with {a thing} |]in the house. {His} {p} said, "Be careful, {H}. Do not
run inside." But {H} [forgot|did not listen]. {He} ran and jumped. Crash! {He} hit the table, and
{his} {p}'s {precious} fell and broke.

{H} was scared. [{He} did not want {his} {p} to be angry.|"Oh no, what will {p} say?" {he}
thought.] {He} [hid the pieces {spot1}|put the pieces {spot1}|ran to {his} room and hid]. When
{his} {p} came in, {phe} asked, "What happened to my {precious}?" "[I don't know|It was not
me|Maybe the wind did it]," said {H}. [{His} face was red.|{He} looked at the floor.]

{H} could not [play|eat|sleep]. {His} tummy felt bad. {F}, {a friend_kind}, said to {him}, "[You
should tell the truth.|It is better to tell the truth. You will feel better.]" So {H} went to
{his} {p} and said, "I am sorry. I broke the {precious}. I was [running in the house|scared to
tell you]."

{His} {p} [gave {him} a hug|took {his} hand]. "I am sad about the {precious}," {phe} said, "but I
am [happy|glad|proud] that you told [me the truth|the truth]. [Let's fix it together.|A {precious}
can be fixed.|Thank you for being honest.]" {H} and {his} {p} [got some glue and fixed it|cleaned
up the pieces]. [{H} gave {his} {p} a picture that {he} made. |]

{H} felt [much better|light and happy again]. {He} learned [to always tell the truth|that it is
good to be honest|that telling the truth is the best thing to do]. [And {he} never ran in the
house again.|From then on, {he} always told the truth.|]
"""

PLOTS["lost_way"] = """
One day, {H} went for a walk in {place}. {He} saw a [pretty|beautiful|blue|yellow]
[butterfly|bird|ball of light|feather in the wind] and [followed it|ran after it]. {He} went
[farther and farther|far, far away]. [When {he} looked around, {he} did not know where {he}
was.|Then it was gone, and {he} did not see {his} home anymore.]

"[Oh no!|Help!] I am lost," said {H}. {He} [called for {his} {p}, but no one came|looked left and
right, but all the trees looked the same|sat down and cried]. [The sun was going down, and it was
getting dark.|The wind was cold.|{He} was hungry and scared.]

Then {H} heard a [small|soft|kind] voice. It was {a friend}. "[Hello. |]Why are you crying?" asked
{F}. "I can not find my way home," said {H}. {F} said, "[I know every path here.|I can help
you.|Don't be afraid.] [What does your home look like?| Follow me!|Tell me what is near your
home.]" "[It is near {landmark}|There is {landmark} near it]," said {H}.

{F} [walked in front, and {H} came behind|took {H} by the hand]. They went [over the hill|across a
little bridge|past a big rock] and [through the tall grass|past {landmark2}|along the river]. [{F}
told {him} a funny story, and {H} was not scared anymore.| They sang a song to be brave.] At last,
{H} saw {landmark}. "[That is my home!|There it is!]" {he} shouted.

{His} {p} was waiting at the door. "{H}! I was so worried," {phe} said and hugged {him}. "{F}
helped me," said {H}. {His} {p} [gave {F} some warm soup|said thank you to {F}|gave them both
cookies]. [{H} promised to never walk away alone again.|{H} learned to stay close to home.|From
that day on, {H} and {F} were best friends.]
"""

PLOTS["fear"] = """
But {H} [was afraid of|was scared of] {fear}. {fear_line} [{H} hid under {his} blanket.|{H} ran
away and hid.|{H} began to shake.| {H} closed {his} eyes.] [The others called {him} a baby, and
that made {him} sad.|{He} did not want to tell anyone.|"I wish I was brave," {he} said to
{himself}.]

One [day|night|evening], {F}, {a friend_kind}, came to {him}. "Why are you [hiding|shaking|sad],
{H}?" asked {F}. "I am scared of {fear}," said {H} in a small voice. {F} did not laugh. "[I was
scared too when I was little.|Everyone is scared sometimes.|That is okay.] But do you know what?
{comfort}. [Hold my hand, and we will see.|We can go together.|I will stay with you.]"

{H} took a deep breath. {He} [held on to {F}|stayed close to {F}] and [opened {his} eyes|took one
small step|counted to three]. [At first {he} was still scared.|{His} heart went thump, thump.] But
[nothing bad happened|it was not so bad]. [{He} took another step and began to smile.|{F} was
right.] "[I am not so scared anymore|It is not so scary], {F}!" said {H}.

"[You are very brave|I am proud of you]," said {F}. "Being brave does not mean you are never
scared. [It means you try anyway.|It means you do it even when you are scared.]" [{His} {p} was
proud too and gave {him} a big hug.|{H} and {F} laughed and played until bedtime.]

[From that day on|After that], {H} was not afraid of {fear} [anymore|]. [And when {he} met someone
who was scared, {he} held their hand.|{He} slept well that night.|{He} knew that {he} was brave.]
"""

PLOTS["lonely"] = """
But {H} was [lonely|sad]. {He} had no [friends|one to play with]. [Every day, {he} watched the
others play and wished for a friend.| "I wish I had a friend," {he} said every night.|{He} was too
shy to say hello.]

One day, {H} went to {place}. There {he} [saw|met] {a friend}. {F} [sat all alone|was
crying|looked sad] [under a tree|on a rock|near the path]. {H} [walked up slowly|took a deep
breath]. "Hello," {he} said. "[What is wrong?|Are you okay?|Why are you alone?]" {F} said, "[I am
new here, and I don't know anyone.|No one wants to play with me.|The others say I am too {odd}.]"

"[I want to play with you|I will be your friend|I don't think so]!" said {H}. "[Let's play hide
and seek.|Do you want to play with my {thing}?|We can have fun together.]" {F} [smiled|jumped up].
They [played and laughed|ran and jumped] all day. {F} showed {H} how to {skill}, and {H} [shared
{his} {food} with {F}|let {F} play with {a thing}].

When the sun went down, {F} asked, "[Will you come again tomorrow?|Can we play again tomorrow?]"
"Yes!" said {H}. "[We are friends now.|Friends play every day.]" {H} went home with a [big
smile|happy heart]. [{He} told {his} {p} all about {his} new friend.| {He} was not lonely
anymore.]

[From that day on, {H} and {F} played together every day.|{H} and {F} became best friends.] [{H}
learned that saying hello can make a new friend.|And {H} was never lonely again.|They lived
happily ever after.]
"""

PLOTS["rescue"] = """
One day, {H} was walking [in|near] {place}. {He} heard a [small sound|tiny voice|cry]. "Help!
Help!" {H} looked around and saw {a friend}. {F} was {trap}. "[Please help me!|I can't get out!]"
said {F}.

[{H} was a little scared, but {he} wanted to help.|{H} felt sorry for {F}.|"Don't worry, I will
help you," said {H}.] {He} [pulled and pulled|pushed as hard as {he} could|tried to get {F} out],
but {he} was [too small|not strong enough]. [{H} thought and thought. Then {he} had an idea.| "I
need something long," {he} said.] {He} found [a long stick|a strong rope|a big branch] and [used
it to pull|tried again]. One, two, three! {F} was free!

"Thank you, thank you!" said {F}. "[You saved me.|You are very kind.] [One day I will help you
too.|I will never forget it.]" {H} [smiled and said, "You are welcome."|was happy and waved
goodbye.]

[The next day|A few days later|One week later], {H} [lost {his} {thing} in the [water|tall
grass|deep hole]. {He} could not get it back.|was playing when {he} got lost. {He} did not know
the way home.|fell into a hole and could not get out.] {He} began to cry. Then {he} heard a voice.
It was {F}! "[Now it is my turn to help you|I told you I would help you]," said {F}. [{F} called
all {fhis} friends, and they helped {H}|{F} was quick and clever, and soon everything was fine].

"[Thank you, {F}!|You came back!]" said {H}. They hugged and laughed. [{H} learned that when you
are kind, kindness comes back to you.|From that day on, they were best friends and always helped
each other.|{H} was glad that {he} had been kind.]
"""

PLOTS["greedy"] = """
Most of all, {H} loved to eat {foods}. One day, {his} {p} made a big [plate|basket|bowl] of
{foods}. "[These are for everyone|We will share them with our friends]," said {his} {p}. "[Please
wait.|Do not eat them all.]" {H} [nodded, but {he} was very hungry|said yes].

When {his} {p} went out, {H} looked at the {foods}. They smelled so [good|sweet|yummy]. "[I will
eat just one|Only one]," {he} said. {He} ate one. Then {he} ate [two more|another one].
[Soon|Then] all the {foods} were gone!

[Then {H} did not feel well. {His} tummy hurt.|"Oh, my tummy," said {H}. It hurt a lot.] {F},
{a friend_kind}, came to visit. "[I came to eat {foods} with you|Your {p} told me about the
{foods}]," said {F}. "[Where are they?|Can I have one?]" {H} felt [bad|very bad]. "I ate them
all," {he} said. "I am sorry." {F} was sad.

{H}'s {p} came back and saw the empty [plate|basket|bowl]. {phe} [was not happy|shook {phis}
head], but {phe} gave {H} [some warm tea|a hug]. "[Now you know why we share|When we eat too much,
we get sick]," {phe} said. "[I want to make it right|Can I help to make more]," said {H}. So {H},
{F}, and {his} {p} made more {foods} together. [They stirred and laughed.|{H} did most of the
work.]

This time, {H} gave the [first|biggest] one to {F}. [They all ate together and were
happy.|"Yummy!" said {F}, and they laughed.] {H} learned [not to be greedy|that food tastes best
when you share it|to wait and to share].
"""

PLOTS["danger"] = """
One day, {H} was playing near {place}. {His} {p} said, "{H}, [please|] do not {danger}.
{danger_why}." "Okay," said {H}.

But {H} was very curious. [{He} wanted to see what would happen.|"It does not look bad," {he}
thought.] When {his} {p} was not looking, {he} {danger_act}. {F}, {a friend_kind}, [saw {him} and
]said, "[Stop, {H}! Your {p} said no.|{H}, that is not a good idea.]" But {H} did not listen.

{danger_result} {H} [began to cry|cried, "Help!"]. {F} [ran to get {H}'s {p}|called for help].
{His} {p} came [very fast|running] and [picked {him} up|helped {him}]. "[Are you okay|Where does
it hurt], {H}?" {phe} asked. {phe} [washed {him} and gave {him} a hug|held {him} close until {he}
felt better].

"I am sorry," said {H}. "[I should have listened to you.|I did not listen.]" {His} {p}
[kissed {him}|hugged {him}] and said, "[I say no because I want you to be safe.|I am glad you are
safe.] [Next time, ask me first.|Please listen next time.]" "[I will|I promise]," said {H}.

[{H} said thank you to {F} too. |]From that day on, {H} [always listened to {his} {p}|was more
careful]. [{He} still had lots of fun, but {he} was safe.|And {he} told all {his} friends to be
careful too.|]
"""

PLOTS["build"] = """
One day, {H} wanted to build {project}. {He} took {material} to {place} and began to work. [It was
hard work.|{He} worked all morning.] [But when it was almost done|Just when it was finished], the
wind [blew hard|came], and it all fell down.

{H} was [sad|angry]. [{He} kicked the ground.|{He} sat down and cried.] "[I can't do it|I will
never build {project}]," {he} said. {F}, {a friend_kind}, [heard {him}|came by]. "[What are you
doing|What happened], {H}?" "I wanted to build {project}, but it fell down."

{F} [looked at it and thought|walked around it]. "[It needs to be stronger at the bottom|We need
bigger pieces]," {fhe} said. "[Can I help?|Let's try again together.]" [{H} wiped {his} eyes and
nodded.|{H} smiled. "Yes, please!"] {H} [carried|brought] {material}, and {F} [put them in
place|held them]. [They talked and laughed while they worked.|They worked slowly and carefully.]

The wind came back and blew and blew. But this time, it did not fall! "[Hooray!|We did it!]"
they shouted. It was the [best|biggest|most beautiful] thing they had ever made. [{H}'s {p} came
to look. "Wow, that is great work!" {phe} said.|All the others came to look and clapped.]

{H} and {F} played there [all day|until dinner]. {H} learned that [working together is better than
working alone|you should not give up when things go wrong|a friend can help you do big things].
[They were very happy.|The end.|And the next day, they built another one.]
"""

PLOTS["gift"] = """
It was almost the birthday of {his} {p}. {H} wanted to give {phim} [a gift|something special]. But
{he} had no money. [{He} looked in {his} room, but there was nothing good enough.|{He} went to the
shop, but everything cost too much.] {H} was sad.

{He} went to {place} to think. There {he} met {a friend}. "Why do you look so sad, {H}?" asked
{F}. "I want to give my {p} a gift, but I have no money," said {H}. {F} said, "[The best gift is
one you make with love.|You do not need money for a gift.] [What does your {p} like?| What can you
make?]"

{H} thought. Then {he} had an idea. "I can make {gift}!" {he} said. {F} helped {him}. [They worked
all afternoon.|{F} found the things they needed, and {H} put them together.] [Once it went wrong,
and they had to start again.|It was not easy, but it was fun.] When it was done, it looked
[lovely|beautiful|very pretty].

[The next day|In the evening|In the morning], {H} gave {his} {p} the gift. "Happy birthday!" {he}
said. "I made it for you." {His} {p} [had happy tears in {phis} eyes|smiled a big smile].
"{gift_cap}! [It is the best gift ever|I love it], {H}," {phe} said and hugged {him}. [{F} got a
big piece of cake too.|They ate cake together.]

{H} was so happy. {He} learned that [a gift from the heart is the best gift|love is better than
money|making others happy makes you happy too].
"""

PLOTS["race"] = """
{H} was [slow|small], and {F}, {a friend_kind}, was fast. {F} always [said, "I am the best! No one
is faster than me."|showed off.] One day, {F} laughed at {H}. "[You are so slow!|You can never
win!]" said {F}. [{H} felt sad, but then {he} had an idea.|{H} did not get angry.] "Let's have a
race to {landmark}," said {H}. {F} laughed and said, "[Okay! I will win.|That will be easy!]"

The next morning, all the animals came to {place} to watch. "One, two, three, go!" {F} ran very
fast and was soon far away. {F} looked back and did not see {H}. "[I have lots of time|I can rest
now]," said {F}. [{FHe} lay down under a tree and fell asleep.|{FHe} stopped to eat some {foods}
and talk.]

{H} [did not stop|kept going]. [Step by step, {he} went on.|{He} was tired, but {he} did not
rest.] {He} went past {F} very quietly. When {F} [woke up|looked up], {H} was almost [at
{landmark}|there]! {F} ran as fast as {fhe} could, but it was too late. {H} won!

Everyone cheered. {F} [was sorry|hung {fhis} head]. "[I should not have laughed at you|I am sorry
I was mean], {H}," {fhe} said. "[You never gave up.|You are a good racer.]" "[It's okay|That's all
right]," said {H}. "[Let's be friends.|Do you want to share some {foods}?]"

[After that, {F} did not show off anymore.|{F} learned to be kind, and {H} was proud.] [Slow and
steady can win the race.|And {H} and {F} were good friends.]
"""

PLOTS["garden"] = """
One day, {H} found a [tiny|small|funny] seed in {place}. "[What will it be?|I want to grow it!]"
{he} said. {He} dug a hole and put the seed in. {He} gave it some water and waited.

The next day, {H} looked, but there was nothing. The day after, there was still nothing. {H} was
[sad|not happy]. "[My seed does not grow|It is a bad seed]," {he} said to {F}, {a friend_kind}.
{F} said, "[Seeds need time.|You have to be patient.] [Give it water and sun, and wait.|Good
things take time.]"

So {H} gave the seed water every day. [{He} sang to it.|{He} pulled out the weeds.] {F}
[helped|came to look too]. [It rained and the sun came out.|Many days went by.] Then one morning,
{H} saw a little green leaf! "[Look|Come quick], {F}! It is growing!" {he} shouted.

The plant grew [bigger and bigger|taller and taller]. Soon it was full of {foods_garden}. [They
were big and sweet.|They looked so pretty.] {H} gave some to {F} and some to {his} {p}. "[Yum!|How
nice!] You did a good job, {H}," said {his} {p}.

{H} kept one new seed for the next year. {He} learned [to be patient|that good things take
time|that if you take care of something, it will grow]. [{H} and {F} were very happy.|The end.|]
"""

PLOTS["magic"] = """
One day, {H} found {a thing} {spot1}. {He} picked it up and [rubbed it|cleaned it].
[Pop!|Poof!|Suddenly,] it began to [glow|shine]. "[Hello, {H}|Hello]," it said. "I am a magic
{it_noun}. [You have one wish.|I can give you three wishes.]"

{H} could not believe it. {He} [thought about what to wish for|was so excited]. "I wish for
{wish}!" {he} said. The {it_noun} [glowed again|made a funny sound], and it came true! At first,
{H} was very happy. But soon [there was too much of it|it was everywhere]. [{He} could not walk or
sleep.|It filled the whole house.|No one could come in, not even {his} friends.] "Oh no," said
{H}. "This is not fun."

{F}, {a friend_kind}, called from outside, "{H}, where are you?" "[I made a silly wish|I wished
for too much]," said {H}. "What should I do?" {F} said, "[Wish for something good for everyone|Ask
it to make things right again]." {H} held the {it_noun} and said, "[Please make everything like it
was before.|I don't want it anymore. I only want my friends.]"

[Poof!|Swish!] Everything was good again. {H} [ran out and hugged|hugged] {F}. "[I don't need
magic. I have you|A friend is better than a wish]," {he} said. [They put the {it_noun} back
{spot1}.|They gave the {it_noun} to a wise old wizard.] Then they [played together|had {foods} and
laughed] until [dark|bedtime].

{H} learned that [you should be careful what you wish for|friends are better than magic|more is
not always better]. [The end.|And {he} was happy with what {he} had.]
"""

PLOTS["pet"] = """
One day, {H} [heard|saw] something [outside|near the door|in {place}]. It was {a small}! It was
[cold and wet|hungry and thin|all alone]. "[You poor little thing|Oh, you are so small]," said
{H}. {He} took it home.

"Can we keep it, please?" {H} asked {his} {p}. {His} {p} said, "[Taking care of {a small} is a big
job|It is not a toy]. [You have to feed it every day|It needs food and love]. And maybe somebody
is looking for it." "[I will take good care of it|I can do it]," said {H}. {He} named it
{petname}.

{H} gave {petname} [some food and a warm blanket|water and a soft bed]. They played together every
day. But one day, {F}, {a friend_kind}, came and saw {petname}. "[That is my little {small}!|I
lost my {small} last week,]" said {F}. {H} felt very sad. {He} did not want to give {petname}
away. But {he} knew it was [the right thing to do|right].

"[Here you are|You can have it back]," said {H}, and a tear ran down {his} cheek. {F} saw that.
"[You took such good care of it|Thank you, {H}]," {F} said. "[You can come and play with us every
day|We can both take care of it]. [{petname} likes you very much.|{petname} will be happy with two
friends.]"

So every day, {H} went to see {F} and {petname}. [They ran and played in {place}.|They played
until the sun went down.] {H} [had done the right thing|was kind], and now {he} had two new
friends. [{H} was very happy.|The end.]
"""

PLOTS["sick"] = """
{H} and {F}, {a friend_kind}, played together every day. But one day, {F} did not come. {H} waited
and waited. [Then {he} went to {F}'s home.|"Where is {F}?" {he} asked {his} {p}. "{F} is sick,"
said {his} {p}.] {F} was in bed. {FHe} was [hot and tired|very weak]. "[I don't feel well|I can't
play today]," said {F}.

{H} was worried. {He} wanted to make {F} feel better. {He} [asked {his} {p}, "What can I
do?"|thought and thought.] [{His} {p} said, "Warm soup and a kind friend help the most."|Then {he}
had an idea.] {H} [helped to make soup|cooked soup with {his} {p}] and picked [some flowers|a
flower].

{H} took the soup to {F}. It was [a long way|raining], but {H} did not stop. "[I brought you some
soup|This is for you]," {he} said. {F} ate the soup and smiled a little. {H} [read {fhim} a
story|told {fhim} jokes|sang {fhim} a song]. [{F} laughed and then fell asleep.|Soon {F} felt
sleepy.] {H} came back [every day|the next day and the day after].

Then one morning, there was a knock at the door. It was {F}! "I am well again!" {fhe} said. "[Your
soup made me strong|Thank you for taking care of me], {H}." {H} [jumped for joy|was so happy that
{he} danced]. They went to {place} and played with {a thing}.

{H} learned that [a good friend is there on good days and bad days|being kind can make someone
feel better|friends take care of each other].
"""

PLOTS["messy"] = """
{H} had many toys, but {he} never put them away. {His} room was a mess. "{H}, please clean your
room," said {his} {p}. "[Later|Not now]," said {H}. {He} wanted to play.

That day, {F}, {a friend_kind}, came to play. "[Let's play with your {thing}|Can I see your
{thing}]," said {F}. {H} looked for it, but {he} could not find it. {He} looked {spot1}. {He}
looked {spot2}. [There were too many things on the floor.|Then {he} stepped on a block. Ouch!] "[I
can't find anything|Where is it]?" said {H}. {He} was [sad|upset].

"[Maybe we should clean up first|I can help you clean]," said {F}. "[It will be fun if we make it
a game.|Let's see who is faster!]" So they [put the books on the shelf|picked up all the blocks]
and [the toys in the box|the clothes in the drawer]. [They sang a silly song.|They raced each
other.] And then, {spot4}, {H} saw the {it_noun}! "[There it is!|Here it is!]" {he} shouted.

{His} {p} came in and [looked around|smiled]. "[Wow, what a clean room!|I am so proud of you!]"
{phe} said. {phe} gave them [some {foods}|{a food} to share]. Then {H} and {F} played with the
{it_noun} all afternoon.

From then on, {H} put {his} toys away every [day|night]. {He} learned that [it is easy to find
things when your room is clean|cleaning can be fun with a friend].
"""

PLOTS["rainy"] = """
It was a rainy day. {H} [looked out of the window|was sad]. {He} wanted to go to {place} and play
with {his} {thing}, but it was [too wet|raining hard]. "[This is so boring|I have nothing to do],"
{he} said. Drip, drop, went the rain.

{F}, {a friend_kind}, was there too. "[I have an idea|Don't be sad]," said {F}. "[We can have fun
inside.|We can make our own fun.] Let's [build a fort|play pretend|make a boat from a big box]!"
{H} [smiled|jumped up]. They got [blankets and pillows|a big box and some crayons] and [worked
together|made a big mess].

Then there was a loud [boom|bang]! It was thunder. {H} was scared, and {he} [hid behind {F}|held
{F}'s hand]. "[It is only noise|It can not hurt us here]," said {F}. They [sang a song|counted to
ten], and soon the thunder went away. {His} {p} brought them [warm milk|hot soup] and {foods}. [It
was the best day.|They pretended to be sailors on a big ship.]

When the rain stopped, {H} and {F} went out. There was a [big|beautiful] rainbow in the sky!
"[Look at all the colors|It is so pretty]," said {H}. They jumped in the puddles. Splash, splash!

{H} was happy. {He} learned that [you can have fun on a rainy day too|with a friend, every day can
be fun|good things come after the rain].
"""

PLOTS["bully"] = """
One day, {H} was in {place} with {a thing}. {F}, {a friend_kind}, came and [took the
{it_noun}|pushed {him}]. "[This is mine now|Go away]!" said {F} in a [mean|loud] voice. {H} was
[sad and scared|upset]. {He} went home and told {his} {p}.

{His} {p} said, "[Maybe {F} is mean because {fhe} is sad|Sometimes people are mean because they
are lonely]. [Why don't you try to be kind to {fhim}|Try to talk to {fhim}]?" {H} thought about
it. It was [a hard thing to do|not easy], but {H} wanted to try.

The next day, {H} [took some {foods} and went back|went back to {place}]. {F} was there, all
alone. {FHe} [looked sad|was sitting on a rock]. "What do you want?" asked {F}. {H} said, "[I have
some {foods}. Do you want one?|I want to share these {foods} with you.]" {F} [was very
surprised|did not know what to say]. "[Why are you nice to me?|For me?] I was mean to you."

"[I think you need a friend|Everyone needs a friend]," said {H}. {F} looked at the ground. "I am
sorry," {fhe} said. "[No one ever plays with me.|I did not know how to ask.] Here is your
{it_noun}." {H} smiled and said, "[Let's play with it together|We can both play with it]!" And
they did. They [laughed|played] and played, and {F} was not mean anymore.

[From that day on, {F} was kind to everyone.|{H} and {F} became good friends.] {H} learned that
[kindness can change a heart|being kind is stronger than being mean].
"""

PLOTS["new_food"] = """
One evening, {his} {p} made {veg} for dinner. {H} looked at it and [made a face|shook {his} head].
"Yuck! I don't like {veg}," {he} said. "[Have you tried it|How do you know]?" asked {his} {p}.
"No," said {H}, "but it looks [funny|bad]."

{F}, {a friend_kind}, came to eat with them. {F} ate and ate. "[Yum! This is so good|I love
{veg}]!" said {F}. "[It makes me strong|It helps me run fast]." {H} [watched {fhim}|was
surprised]. {He} wanted to be strong too.

"[Just one small bite|Try one bite]," said {his} {p}. {H} closed {his} eyes and took a very small
bite. {He} [chewed slowly|waited]. Then {he} opened {his} eyes. "[Hmm, it is not bad|It is good]!"
{he} said. {He} took another bite, and another. Soon {his} [plate|bowl] was empty. "Can I have
more, please?" {he} asked. {His} {p} laughed.

The next day, {H} and {F} went to {place}. {H} ran and climbed and jumped. "[I feel strong|Look
how high I can jump]!" {he} said.

{H} learned that [you should try new things before you say no|new things can be good]. And {veg}
was {his} new favorite food.
"""

PLOTS["trip"] = """
One [sunny|warm] day, {H} and {his} {p} went to {place}. {H} was very excited. {He} took {a thing}
and some {foods}. [They walked and sang.|"Are we there yet?" {he} asked again and again.] When
they got there, {H} saw [so many things|many new things]. There was {landmark}, and there was
{a friend}!

"Hello," said {H}. "Hello," said {F}. "[Do you want to see something special|Do you want to play
with me]?" {H} asked {his} {p}, and {phe} said, "[Yes, but stay where I can see you|Yes, have
fun]." {F} showed {H} [a secret path|a little cave|a place full of flowers]. They [played|ran
around] and found [a shiny stone|a pretty shell|an old key].

But then {H} saw that {his} {thing} was gone. [{He} had dropped it on the way.|The wind had blown
it away!] "Oh no!" said {H}. {F} said, "[Don't be sad. I can find it|I saw something {color} over
there]." {F} [ran back|looked around], and {H} looked {spot1}. And there it was! "[Thank you,
{F}|You found it]!" said {H}.

They all sat down and ate the {foods}. The sun began to go down. "It is time to go home," said
{his} {p}. {H} [gave {F} a hug|waved to {F}] and said, "[I will come back|See you soon]!"

On the way home, {H} [fell asleep|told {his} {p} all about it]. [It was the best day ever.|{He}
dreamed about {his} new friend.|{He} could not wait to go to {place} again.]
"""

PLOTS["bedtime"] = """
It was night, and {H} was in bed. But {he} could not sleep. {He} turned left, and {he} turned
right. [The house was very quiet.|The moon was big and bright.] "I can't sleep," {he} called.

{His} {p} came and sat on the bed. "[Did you count the stars|Did you close your eyes]?" {phe}
asked. "[Yes, but I am still awake|I did, but it did not help]," said {H}. "[I miss my {thing}|I
am thinking about too many things]." {His} {p} [found the {it_noun} {spot1} and gave it to
{him}|gave {him} {his} {thing} to hold].

Then there was a soft [tap|sound] at the window. It was {a friend}! "I can't sleep too," said {F}.
"[May I come in|Can I sleep here]?" {H} made room in the bed. {His} {p} smiled and said, "[I will
tell you both a story|Let me sing you a song]." {phe} [told them about a little star that wanted
to shine|sang a soft song about the moon and the sea].

{F} [yawned|closed {fhis} eyes]. {H} yawned too. {His} eyes got heavy. "Good night, {F}," {he}
[whispered|said]. "Good night, {H}," said {F}. Soon they were both asleep.

{His} {p} [turned off the light and kissed them|pulled up the blanket]. The moon smiled at them
all night long. And in the morning, {H} and {F} [were happy and ready to play|woke up and played
together].
"""

PLOTS["teamwork"] = """
One day, there was a big storm. [A tree fell down and blocked|A big rock rolled down and blocked]
the path to {place}. Now no one could go there. {H} [was sad|was upset], because {his} {thing} was
on the other side. {H} pushed and pushed, but {he} could not move it.

{F}, {a friend_kind}, came and tried. But {F} could not move it [alone|too]. "[It is too heavy|We
are too small]," said {F}. {H} thought hard. "[We are small, but we are many|If we all push
together, we can do it]," {he} said. "[Let's call everyone|Let's ask for help]!"

So {H} and {F} went from door to door. They called {small_list}. Some said, "[It will not work|You
are too little]." But [they all came|in the end, everyone came]. "One, two, three, push!" shouted
{H}. They pushed and pulled. It moved a little. "[Again|One more time]!" said {F}. And then, with
a big crash, it [rolled away|moved out of the way]!

"Hooray!" everyone shouted. {H} [ran to get|found] {his} {thing}, and they had a party [in|near]
{place}. They ate {foods} and danced. [Even those who had said no were happy.|"You had a good
idea, {H}," said {F}.]

{H} learned that [together we can do big things|when everyone helps, nothing is too heavy]. [And
they all lived happily ever after.|The end.]
"""

PLOTS["dream_job"] = """
{H} [looked up at|liked to look at] the [sky|hills] and dreamed of [a big adventure|seeing the
world]. "I want to go to {place} and find {a thing}," {he} said. The others laughed. "[You are too
small|That is too far]," they said. But {H} packed {his} bag with {foods} and went.

On the way, {H} met {a friend}. "Where are you going?" asked {F}. "I am going to find {a thing},"
said {H}. "[Can I come too|May I come with you]?" said {F}. "[Yes! Two are better than one|Of
course]," said {H}. So they went on together. They came to a wide [river|valley]. "[How do we get
across|We can't cross it]," said {F}. {H} saw a [long log|fallen tree]. They pushed it over and
walked across, step by step.

[Then it got dark, and they were scared.|Then it began to rain.] They found a little cave and
shared the {foods}. "[I am glad you are here|We will be fine]," said {H}. In the morning, the sun
was shining, and there, {spot4}, was {a thing}! "[We found it|There it is]!" they shouted.

{H} and {F} took the {it_noun} home. Everyone wanted to see it. "[You were so brave|Tell us
everything]!" they said. {H} told them about the river and the cave, and how {F} had helped. [No
one laughed at {H} anymore.|They all clapped.]

{H} learned that [even someone small can do great things|dreams can come true if you try|every
road is shorter with a friend]. [And {H} and {F} were friends forever.|The end.]
"""

THING_OPENINGS = """
{H} had {a thing}. [{He} took it everywhere.|It was {his} favorite thing.|{He} loved it very much.]
#
[One rainy day|One morning|One day], {H} found {a thing} {spot4}. [{He} took it home.|"How
pretty!" {he} said.|"What is this?" {he} said.] {He} [liked|loved] it very much.
#
[Once upon a time|Once], there was {a hero_intro} who had {a thing}. [{H} took it everywhere.|{H}
played with it every day.|]
#
{A thing} lay {spot4}. {A hero_intro} found it. "It is mine now," {he} said.
#
{H} got {a thing} for {his} birthday. [It was just what {he} wanted.|{He} was so happy.]
#
{A hero_intro} loved {his} {thing} more than anything. [{H} took good care of it.|]
#
"Look, I have {a thing}!" said {H}. {He} was {a trait kind}.
#
[Once upon a time|One day], {a hero_intro} [found|saw|got] {a thing}. [{H} was very happy.|It was so
nice.]
#
{H} [was playing|liked to play] with {a thing}. {He} was {a trait kind} [|and lived in {home}].
"""
AFTER_THING_OPENINGS = ("short_lost_thing", "short_share", "short_broken", "short_trip",
                        "short_sleep", "short_mean")  # fmt: skip

OPENINGS = """
[Once upon a time|Once upon a time|Once upon a time|Once|Long ago|One day|A long time ago], [there
was|there was|there lived] {a hero_intro}. [{H} lived in {home}.|{He} lived in {home} with {his}
{p}.|] {H} [was very {trait}|was {trait}]. [{He} [liked|loved] to {nature}[ every day|].|]
#
[Once upon a time|Once upon a time|Once upon a time|Once], in {home}, there [was|lived]
{a hero_intro}. [{H} loved to {nature}.|{H} was {a trait kind}.|Everyone [liked|knew] {H}.]
#
Once there was {a hero_intro}. {H} [liked|loved] to {nature} [and play in {place}|all day long|].
#
{H} was {a trait kind}. {He} [liked|loved] to {nature}. [{He} lived in {home} with {his} {p}.|]
#
[In|Near] {home} there lived {a hero_intro}. {H} liked [many things, but most of all {he} liked to
{nature}|to {nature}].
#
{H} the {kind} lived in {home}. {He} was [very |]{trait} and [liked|loved] to {nature}.
#
It was a [sunny|cold|quiet|windy] [day|morning] in {home}. {A hero_intro} [woke up early|looked
out and smiled|was up before the others]. {H} [liked|loved] to {nature}.
#
There was once {a hero_intro} who [liked|loved] to {nature}. [{He} lived in {home}.|]
#
{A hero_intro} lived in {home}. {H} was {trait}, and {he} [liked|loved] to {nature}.
#
Far away, in {home}, there was {a hero_intro}. [Every day, {H} went out to {nature}.|]
#
Every [day|morning], {H} the {kind} went to {place}. {He} was {trait} and [liked|loved] to {nature}.
#
{H} was the [smallest|youngest|oldest] {kind} in {place}. {He} [liked|loved] to {nature}.
#
In the middle of {place}, there lived {a hero_intro}. Everyone [liked|knew] {H}.
#
[It was a rainy day.|The sun was shining.|It was winter, and the snow was deep.|It was a hot summer
day.|The wind was blowing.|It was the first day of spring.] {A hero_intro} [looked out and
smiled|went outside|was very happy]. {H} [liked|loved] to {nature}.
#
{H} woke up [early|late|with a smile|before the sun]. {He} was {a trait kind} who [liked|loved] to
{nature}[ every day|].
#
{H} lived [alone |all alone |]in {home}. {He} was {trait}. [Everyone in {place} knew {him}.|]
#
{H} and {F} were [best|good] friends. They [played together every day|both lived in {home}|liked to
{nature} together].
#
[Once upon a time, there|There|Once there] were two [good |]friends, {H} and {F}. [They lived in
{home}.|They liked to {nature} together.|They did everything together.]
#
{H} and {F} [were playing|went for a walk|sat in the sun] in {place}. [They were good friends.|They
liked to {nature}.|It was a nice day.]
#
{H} had a secret. {He} [liked|loved] to {nature} when no one was looking.
#
[Every night|Every day|Every evening|Each morning], {H} sat in front of {home}. {He} was {a trait
kind} and [liked|loved] to {nature}.
#
{H} lived with {his} {p} in {home}. {He} was {trait} and [liked|loved] to {nature}.
#
No one in {place} was as {trait} as {H}. [{He} [liked|loved] to {nature}.|{He} lived in {home}.]
#
"Good morning!" said {H}. {He} was {a trait kind} who lived in {home}. [{He} [liked|loved] to
{nature}.|]
#
"[Look|Come here|Wait], {H}!" said {his} {p}. {H} was {a trait kind} and [liked|loved] to {nature}.
[They lived together in {home}.|]
#
{H} was [so|very] {trait}. {He} [liked|loved] to {nature}.
#
{A hero_intro} [was tired of|did not like] {home}. {He} wanted to [see|know] [something new|more].
#
{A hero_intro} [was playing|sat alone|was walking] in {place}. [{H} was {trait}.|It was a lovely
day.|]
#
The [old |little |big |]{building} [near {landmark} |]was very [quiet|cold|dark|old]. {A hero_intro}
lived there[ with {his} {p}|]. {H} [liked|loved] to {nature}.
#
In the middle of {place} [stood|was] {a hero_intro}. {H} was {trait} and [liked|loved] to
{nature}.
#
{H} was tired of {his} {home_noun}. {He} wanted to [see|know] [something new|more].
"""
