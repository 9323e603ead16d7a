"""Words for the story grammar: who, what, where, and how they feel."""


def words(text: str) -> list[str]:
    return text.split()


def phrases(text: str) -> list[str]:
    return text.split("|")


GIRL_NAMES = words(
    "Lily Mia Sara Anna Lucy Sue Amy Emma Lila Jane Sally Molly Ella Mary Jill Kate Zoe Lola "
    "Nina Alice Emily Sophie Sarah Bella Maya Mandy Jenny Lisa Eva Katie Betty Ellie Olivia "
    "Nora Julia Penny Tina Polly Clara Rosa Ruby Grace Hannah Iris Ivy Leila Luna Maria Nadia "
    "Priya Aisha Yuki Mei Zara Freya Greta Heidi Ines Jana Kira Layla Noor Odette Petra Rita "
    "Stella Tara Una Vera Wendy Xenia Abby April Becky Carla Daisy Fiona"
)
BOY_NAMES = words(
    "Tim Tom Ben Timmy Jack Max Sam Bob Joe Billy Bobby Tommy John Leo Mark Danny Johnny Jimmy "
    "Fred Mike Peter Jim Andy Bill Ted Luke Jake Dan Alex David Harry Charlie Henry Joey Nick "
    "Finn Adam Oliver Roger Toby Oscar Felix Hugo Otto Omar Ravi Kenji Diego Carlos Pablo Amir "
    "Noah Ethan Lucas Mateo Milo Nico Owen Paul Quinn Rory Simon Theo Victor Walter Yusuf Zack "
    "Arthur Boris Colin Eric Frank George Ivan Jonas Kai Liam Marco"
)
PET_NAMES = words(
    "Spot Max Fluffy Whiskers Bella Buddy Coco Daisy Fin Ginger Hoppy Honey Jumbo Kiki Lulu "
    "Mimi Momo Nibbles Nutty Patch Peanut Pip Pippin Poppy Puff Rex Rolo Roxy Rusty Sandy Shelly "
    "Slinky Snowy Sparky Sunny Tiggy Tiny Toto Tuck Twinkle Waddle Willow Ziggy Bruno Bubbles "
    "Benny Bingo Biscuit Blinky Bobo Button Chip Chirpy Cuddles Dash Dot Dusty Ellie Flick Flop "
    "Freddy Fuzzy Gus Hazel Jojo Leo Mango Midge Misty Moss Oakley Olive Otis Pepper Pickle "
    "Plum Quill Rosie Scout Skip Socks Speedy Squeaky Stripes Tilly Timmy Tuffy Wally Wiggles"
)

COMMON_ANIMALS = words(
    "cat dog bunny bear bird fish frog mouse squirrel duck pig cow horse fox rabbit turtle "
    "puppy kitten lion elephant monkey owl bee butterfly ant"
)
ANIMALS = [
    *COMMON_ANIMALS,
    *words(
        "bear wolf deer hedgehog badger mole otter beaver raccoon skunk hamster goat sheep lamb "
        "donkey pony calf chick hen rooster goose swan penguin parrot crow robin sparrow eagle "
        "seagull pigeon peacock flamingo toad snail worm spider ladybug cricket grasshopper moth "
        "caterpillar dragonfly crab lobster shark whale dolphin seal walrus octopus jellyfish "
        "starfish seahorse giraffe zebra hippo rhino tiger leopard cheetah panda koala kangaroo "
        "camel crocodile alligator lizard snake gecko chameleon bat squid llama moose reindeer "
        "buffalo gorilla sloth lemur meerkat platypus porcupine ostrich toucan pelican stork "
        "woodpecker hummingbird kingfisher weasel ferret chipmunk tadpole dinosaur cub"
    ),
    "polar bear",
]
MAGIC_BEINGS = words(
    "dragon unicorn fairy mermaid giant wizard witch elf gnome troll ghost robot monster pirate "
    "king queen prince princess knight goblin genie phoenix yeti alien snowman scarecrow"
)
LIVELY_THINGS = words(
    "car truck train boat bus tractor plane kite balloon tree flower cloud star leaf rock "
    "snowflake raindrop teapot lamp clock pencil crayon button sock shoe umbrella broom spoon "
    "pumpkin mushroom carrot tomato teddy doll drum bell candle"
)
GROWN_UPS = words(
    "man woman lady baker farmer fisherman gardener painter teacher doctor shopkeeper postman "
    "sailor cook tailor clown fireman policeman astronaut carpenter musician miller shepherd "
    "dancer nurse"
)

TOYS = [
    *words(
        "ball doll kite drum truck car robot boat train puzzle book balloon bike scooter whistle "
        "flute bell yo-yo puppet top wagon hat scarf ring necklace crown cape lantern"
    ),
    "teddy bear",
    "toy car",
    "toy plane",
    "toy boat",
    "jump rope",
    "paint set",
    "music box",
    "flashlight",
]
TREASURES = [
    *words(
        "shell feather stone coin key leaf ribbon button marble acorn flower pebble gem map bottle "
        "mirror box bracelet star clock pearl umbrella blanket basket rope pencil pillow"
    ),
    "pine cone",
    "glass bead",
    "tin spoon",
    "wooden whistle",
]
FOODS = [
    *words(
        "apple banana cookie cake pie carrot berry pear sandwich pancake muffin orange cherry "
        "peach plum melon donut cupcake pumpkin potato"
    ),
]
SOUP_FOODS = words(
    "soup broccoli spinach cabbage fish pumpkin oatmeal rice cheese lettuce corn salad"
)
COLORS = words("red blue green yellow pink purple orange white black brown golden silver gray")
LOOKS = words(
    "shiny big little small old new pretty soft round tiny special beautiful bright smooth funny "
    "wooden fancy colorful"
)
HERO_TRAITS = words(
    "curious brave kind happy clever shy playful friendly gentle cheerful silly careful lazy "
    "proud smart quiet busy adventurous polite helpful"
)
PLACE_PREPOSITIONS = {  # "in" where nothing is said
    "beach": "at", "lake": "at", "playground": "at", "river": "by", "pond": "by", "hill": "on",
    "farm": "on", "moon": "on", "mountain": "on", "island": "on", "ship": "on", "roof": "on",
    "sea": "by", "zoo": "at", "school": "at", "market": "at", "station": "at", "airport": "at",
}  # fmt: skip
NATURES = {  # what such a hero likes
    "curious": ["look at new things", "ask questions", "explore"],
    "brave": ["climb high", "explore", "try new things"],
    "kind": ["help others", "share", "make friends"],
    "happy": ["sing", "laugh", "dance"],
    "clever": ["solve puzzles", "read", "think of new ideas"],
    "shy": ["sit under the tree", "draw", "watch the clouds"],
    "playful": ["run and jump", "play games", "roll in the grass"],
    "friendly": ["meet new friends", "say hello to everyone", "talk"],
    "gentle": ["look after small animals", "smell the flowers", "pet the cats"],
    "cheerful": ["sing songs", "dance in the rain", "smile at everyone"],
    "silly": ["tell jokes", "make funny faces", "spin in circles"],
    "careful": ["put things in order", "count things", "paint"],
    "lazy": ["sleep in the sun", "take long naps", "lie in the grass"],
    "proud": ["show off", "talk about how good it was to win", "win games"],
    "smart": ["read books", "learn new words", "build things"],
    "quiet": ["listen to the birds", "read", "look at the stars"],
    "busy": ["work in the garden", "build things", "clean the house"],
    "adventurous": ["explore", "look for treasure", "climb trees"],
    "polite": ["say please and thank you", "help at home", "listen to stories"],
    "helpful": ["help at home", "carry things for others", "help friends"],
}
OUTDOOR_PLACES = phrases(
    "the park|the forest|the garden|the beach|the meadow|the woods|the yard|the field|the lake|"
    "the river|the hill|the farm|the playground|the pond"
)
HOMES = phrases(
    "a small house near the forest|a big house on a hill|a little town|a small village|"
    "a cozy house by the sea|a quiet valley|a big city|"
    "a little cottage|a house with a red door|a land far away|a tall house in the city"
)
ANIMAL_HOMES = phrases(
    "a big forest|a warm den under a tree|a green meadow|a quiet valley|"
    "a deep forest|a little hole near the river|a small cave|a tall tree|the jungle"
)
HIDING_SPOTS = phrases(
    "under the bed|behind the couch|in the tall grass|under a bush|behind a big rock|"
    "in the toy box|under a pile of leaves|behind the old tree|in the kitchen|under the table|"
    "near the pond|in the basket|behind the door|inside an old boot|next to the fence"
)
SMALL_ANIMALS = words(
    "bird kitten puppy bunny squirrel mouse duckling butterfly ladybug frog hedgehog turtle bee "
    "chick lamb fox owl"
)
TRAPS = phrases(
    "stuck in a net|stuck in the mud|caught in a thorny bush|trapped under a branch|"
    "stuck in a deep hole|tangled in a string|stuck in a fence|caught between two rocks"
)

# verb, -ing form, past form, what a teacher shows
SKILLS = [
    ("fly", "flying", "flew", "flap and jump into the wind"),
    ("swim", "swimming", "swam", "kick and float on the water"),
    ("sing", "singing", "sang", "breathe in and sing one note at a time"),
    ("dance", "dancing", "danced", "count the steps, one, two, three"),
    ("climb", "climbing", "climbed", "hold on tight and take one small step at a time"),
    ("jump", "jumping", "jumped", "bend low and push hard"),
    ("whistle", "whistling", "whistled", "make a small round mouth and blow"),
    ("skate", "skating", "skated", "push with one foot and then the other"),
    ("paint", "painting", "painted", "look first and then move the brush slowly"),
    ("read", "reading", "read", "say every letter and then the whole word"),
    ("ride a bike", "riding a bike", "rode a bike", "look ahead and keep going"),
    ("bake a cake", "baking a cake", "baked a cake", "stir slowly and wait for the oven"),
    ("play the drum", "playing the drum", "played the drum", "tap softly and count to four"),
    ("catch a ball", "catching a ball", "caught a ball", "watch the ball with both eyes"),
    ("do a somersault", "doing somersaults", "did a somersault", "tuck in and roll"),
    ("tell jokes", "telling jokes", "told a joke", "wait a little before the funny part"),
    ("juggle", "juggling", "juggled", "start with one ball and then add another"),
    ("run fast", "running fast", "ran fast", "take small quick steps"),
]
SKILL_VERBS = [skill[0] for skill in SKILLS]

# fear, how one speaks of it, why it is not so bad
FEARS = [
    (
        "the dark",
        "It was so dark that {he} could not see a thing.",
        "the dark is only the light having a rest",
    ),
    ("thunder", "Boom! The thunder was very loud.", "thunder is only the clouds bumping together"),
    ("the water", "The water looked deep and cold.", "the water will hold you if you stay calm"),
    ("big dogs", "The dog was very big and it barked.", "most dogs only want to say hello"),
    ("spiders", "A little spider sat on the wall.", "the spider is much smaller than you"),
    ("high places", "It was a long way down.", "you only need to look at the next step"),
    (
        "the wind",
        "The wind went whoosh around the house.",
        "the wind is only playing with the trees",
    ),
    ("loud noises", "Bang! Something made a very loud noise.", "a noise can not hurt you"),
    ("new people", "There were so many new faces.", "everyone is new before they are a friend"),
    (
        "monsters under the bed",
        "Something went bump in the night.",
        "the bump is only the old house going to sleep",
    ),
    ("the doctor", "The doctor's room was white and quiet.", "the doctor only wants to help you"),
    ("storms", "The storm made the windows shake.", "every storm goes away in the end"),
]

PROJECTS = phrases(
    "a sandcastle|a tall tower|a tree house|a little boat|a kite|a snowman|a fort|a bridge|"
    "a bird house|a big castle of blocks|a raft|a robot|a doll house|a swing|a cart with wheels"
)
GIFTS = phrases(
    "a card with a big heart|a necklace of shells|a crown of flowers|a picture of the family|"
    "a small cake|a warm scarf|a basket of berries|a song|a bunch of flowers|a paper star"
)
PRECIOUS = phrases(
    "vase|cup|plate|lamp|mirror|bowl|window|clock|jar|picture|teapot|glass|flower pot"
)
DANGERS = [  # what is forbidden, why, what the hero does, what happens
    (
        "touch the hot stove",
        "it can burn you",
        "touched the stove with one finger",
        "Ouch! It was very hot and it hurt.",
    ),
    (
        "go near the deep river",
        "the water is fast",
        "went close to the river to look",
        "Splash! {H} slipped and fell into the cold water.",
    ),
    (
        "climb the tall tree",
        "the branches are weak",
        "climbed up and up the tree",
        "Crack! A branch broke and {H} fell down.",
    ),
    (
        "eat the strange berries",
        "they can make you sick",
        "ate three of the berries",
        "Soon {his} tummy began to hurt.",
    ),
    (
        "play with the sharp knife",
        "it can cut you",
        "picked up the knife",
        "Ouch! {He} got a small cut.",
    ),
    (
        "open the old gate",
        "you can get lost",
        "opened the gate and went through",
        "Soon {he} did not know the way back.",
    ),
    ("run on the ice", "it is slippery", "ran and ran on the ice", "Bump! {H} fell down hard."),
    (
        "jump on the bed",
        "you can fall",
        "jumped on the bed, higher and higher",
        "Bump! {H} fell off the bed and hit {his} knee.",
    ),
    (
        "poke the bees",
        "they can sting",
        "poked the bees with a stick",
        "Buzz! The bees came out and stung {him}.",
    ),
    (
        "run across the road",
        "a car may come",
        "ran into the road",
        "Beep! A car stopped just in time, and {H} was very scared.",
    ),
]
MADE_UP_ONSETS = words(
    "b bl br c ch d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sh sn sp t tr v w z zw"
)
MADE_UP_VOWELS = words("a e i o u oo ee")
MADE_UP_ENDINGS = words(
    "ble bo ckle ddle ff ffin gle lly lo m mp n nk nta p ple pple r rbit rk sh sk t tch tty x zz "
    "zzle mbo ndo loo kin"
)

# Parts of names that no list has: "Marbelina", "Toskin".
NAME_ONSETS = words(
    "Ab Ad Al Am An Ar As Ba Bar Be Bel Ber Bran Bri Ca Cal Cas Ce Cor Cy Da Dar De Del Do Dor "
    "Ed El Em En Er Es Fa Far Fe Fi Flo Ga Gar Ge Gil Glo Gwen Ha Har He Hel Ho Ib Il Im In Is "
    "Ja Jas Je Jo Jos Ju Ka Kal Ke Kel Ki Ko La Lan Le Len Lo Lor Lu Ma Mal Mar Me Mel Mi Mir "
    "Mo Mor Na Nat Ne Ni Nor Ol Or Os Pa Pat Pe Per Phi Pru Qua Ra Ram Re Ri Ro Rom Ros Ru Sa "
    "Sal Se Sel Si Sol Su Ta Tal Te Tel Tho To Tor Tru Ul Um Va Val Ve Vi Vin Wa Wil Win Ya Yo "
    "Za Zel Zo Zu"
)
NAME_MIDDLES = words("bel ber da der di do ga go ha la le li lo ma me mi mo na ne ni ra ri ro sa "
                     "sha ta te ti va vi")  # fmt: skip
GIRL_NAME_ENDINGS = words(
    "a bia da della dy gie la lia lie line lyn mina mma na nda nna nnie nora phie ra rah ria rie "
    "ry s shi sie ssa sy ta tta ttie via wen ya za"
)
BOY_NAME_ENDINGS = words(
    "bert by can ck das der do don drew fer ford gan go kin ko las lan ld lin lo man mas min mo n "
    "nard nny no ro ry s sh son ston to tin ton tt ver vin win x"
)

# What heroes want to see, where they want to go, and what else their wishes name
SIGHTS = phrases(
    "the ocean|the sea|the moon|the stars|the snow|the city|the castle|the mountains|the rainbow|"
    "the circus|the king|the queen|the whole world|the desert|the big ships|the sunrise|"
    "the sunset|the other side|the parade|the fireworks|the big tree|the waterfall|the clouds|"
    "the North Star"
)
FEATS = phrases(
    "smile|laugh|sleep|cry|talk|bark|roar|meow|see|hear|walk|stand still|sit still|stop talking|"
    "wake up|count to ten|say sorry|say no|write|tie shoes|hop|roll|float|shine|glow|grow|bloom|"
    "melt|spin|ring|move|go fast|keep a secret|find the way home|tell the truth|make a friend|"
    "make honey|see in the dark|remember"
)
HEIGHTS = phrases(
    "the hill|the mountain|the big tree|the tall tower|the wall|the ladder|the stairs|a tree|"
    "the rock|the steep hill|the apple tree|the rope|the fence|to the top"
)
JOBS = [*GROWN_UPS, *words(
    "pilot captain singer chef king queen firefighter cowboy detective inventor magician scientist "
    "superhero poet ninja explorer vet drummer builder ballerina"
)]  # fmt: skip
INSTRUMENTS = words("piano drum flute guitar trumpet violin harp banjo bell horn tuba")
DUTIES = phrases(
    "go to bed|take a bath|go to school|wake up|get up|go home|go to the doctor|sing|shine|sleep|"
    "rain|snow|share|say sorry|wait|learn|read|help|work|wash|swim|play|dance|smile|talk|listen|"
    "go outside|put away the toys|water the flowers|ring|fly|roll|run|bark|grow|clean up|"
    "say please|eat soup|take a nap|say thank you|come in|go on the bus|ride the train|blow|fall|"
    "leave home|stop"
)
BUILDINGS = words("house castle lighthouse barn school tower mill shop cave church library theater "
                  "museum palace cottage station hotel inn cellar attic")  # fmt: skip
NOISE_PLACES = phrases(
    "in the kitchen|under the bed|outside|in the garden|behind the door|in the attic|in the barn|"
    "at the window|in the forest|in the closet|on the roof|near the pond|downstairs|"
    "in the bushes"
)
HATCHLINGS = words("bird dragon turtle duck dinosaur penguin owl chick snake crocodile goose swan")
HOME_NOUNS = words("castle house room cave nest tower farm garden village box pond tree town bed")
LITTLE = words("little little little small tiny old big young")
FAMILY = [  # who is called by what they are: name, kind, pronoun
    ("Grandpa", "grandpa", "he"), ("Grandma", "grandma", "she"), ("Dad", "dad", "he"),
    ("Mom", "mom", "she"), ("Uncle Joe", "uncle", "he"), ("Aunt Rose", "aunt", "she"),
    ("Mr. Brown", "man", "he"), ("Mrs. Green", "woman", "she"), ("Grandfather", "grandpa", "he"),
    ("Grandmother", "grandma", "she"), ("Mr. Bear", "bear", "he"), ("Mrs. Hill", "woman", "she"),
    ("the old man", "old man", "he"), ("the old woman", "old woman", "she"),
    ("the king", "king", "he"), ("the queen", "queen", "she"), ("the princess", "princess", "she"),
    ("the prince", "prince", "he"), ("the farmer", "farmer", "he"), ("the baker", "baker", "he"),
]  # fmt: skip

# For requests: whatever a child may ask a story about.
SUBJECT_NOUNS = phrases(
    "toaster|spaceship|rocket|submarine|helicopter|bulldozer|digger|fire engine|motorbike|"
    "skateboard|trumpet|violin|guitar|piano|harp|banjo|camera|computer|telephone|radio|fridge|"
    "kettle|fork|knife|plate|cup|bowl|pan|pot|chair|table|bed|sofa|door|window|house|castle|tower|"
    "bridge|lighthouse|windmill|tent|cave|volcano|mountain|island|waterfall|rainbow|moonbeam|"
    "snowball|icicle|puddle|pebble|potato|onion|cabbage|pickle|noodle|pizza|sandwich|cheese|"
    "pancake|waffle|muffin|cupcake|jellybean|lollipop|candy|popcorn|strawberry|blueberry|"
    "pineapple|coconut|lemon|grape|mitten|glove|sweater|jacket|boot|slipper|backpack|suitcase|"
    "bucket|shovel|hammer|ladder|wheel|engine|magnet|compass|telescope|treasure chest|sword|"
    "shield|wand|potion|carpet|lantern|candle|puppet|marionette|teddy|rocking horse|snow globe|"
    "postcard|letter|stamp|library book|dictionary|notebook|eraser|ruler|paintbrush|chalk|"
    "football|basketball|baseball|ice skate|sled|surfboard|swing|slide|sandbox|seesaw|"
    "vampire|werewolf|zombie|cyclops|gargoyle|imp|pixie|sprite|nymph|sphinx|griffin|pegasus|"
    "bigfoot|kraken|leprechaun|mummy|skeleton|sorcerer|ninja|samurai|cowboy|explorer|detective|"
    "inventor|scientist|chef|plumber|librarian|judge|pilot|captain|soldier|queen bee|spy|"
    "superhero|acrobat|magician|juggler|singer|poet|writer|grandfather|grandmother|baby|twin|"
    "cousin|brother|sister|neighbor|aunt|uncle|anteater|armadillo|aardvark|baboon|bison|bobcat|"
    "canary|catfish|centipede|chinchilla|clam|cockatoo|cobra|condor|coyote|cuckoo|dingo|dodo|"
    "eel|emu|falcon|firefly|gazelle|gerbil|gibbon|guinea pig|hawk|heron|hyena|iguana|jackal|"
    "jaguar|kiwi|lynx|macaw|magpie|mammoth|manatee|mongoose|mosquito|narwhal|newt|ocelot|okapi|"
    "opossum|orangutan|oyster|panther|peahen|piranha|puffin|puma|python|quail|raven|salmon|"
    "scorpion|shrimp|shrew|stingray|swallow|tarantula|termite|tortoise|trout|tuna|turkey|viper|"
    "vole|vulture|wallaby|walrus|warthog|wasp|wildcat|wombat|yak"
)
SUBJECT_ADJECTIVES = phrases(
    "tiny|giant|purple|pink|green|golden|silver|blue|red|yellow|orange|striped|spotted|fluffy|"
    "sleepy|hungry|grumpy|lonely|brave|clever|silly|lazy|shy|magic|flying|talking|singing|dancing|"
    "invisible|little|big|old|young|fat|thin|tall|fast|slow|happy|sad|angry|kind|mean|friendly|"
    "scared|funny|strange|lost|broken|wooden|paper|glass|snowy|rainy|sparkly|shiny|rusty|dusty|"
    "fuzzy|furry|scaly|wise|noisy|quiet|polite|greedy|proud|curious|crooked|wild|gentle|hairy|"
    "wobbly|round|square|smelly|messy|muddy|frozen|glowing|three-legged|one-eyed|forgetful"
)
SUBJECT_PLACES = phrases(
    "the moon|the beach|the zoo|the farm|the sea|the mountain|the island|the school|the market|"
    "the desert|the jungle|the castle|the city|the river|the lake|the park|the forest|the garden|"
    "the cave|the snow|the library|the circus|the train station|the playground|the stars|"
    "the bottom of the sea|the North Pole|the old house|the toy shop|the bakery|the museum|"
    "the swimming pool|the hospital|the airport|the woods|the meadow|the hills|the village"
)
