"""Names that can be read, said and remembered, such as brisk-otter."""

import secrets
from typing import Final

_FIRST: Final = """
    able agile airy alert amber ample apt azure balmy bold brave breezy bright brisk broad bronze calm candid chief
    clear clever cobalt coral cosmic cosy crisp curly dapper daring deft dewy dreamy eager early earnest easy elder
    epic even exact fabled fair famed fancy fast fleet fluffy fond frank fresh frosty gentle giant gilded glad
    golden grand green handy happy hardy hazel hearty honest humble icy ideal indigo ivory jade jolly jovial keen
    kind lasting lilac lively loyal lucid lucky lunar maple mellow merry mighty mild mint misty modest mossy neat
    nimble noble olive opal patient pearly placid plucky polite prime proud quick quiet rapid rare ready regal rosy
    round royal ruby rustic sandy scarlet serene sharp shiny silent silky silver sleek smart smooth snowy snug solar
    solid spry stable starry steady still stoic sturdy subtle sunny super sure swift tall tame tidy tranquil true
    upbeat urban vast velvet vivid warm wise witty woven young zesty
"""
_SECOND: Final = """
    adder alpaca ant ape auk badger bat bear beaver bee beetle bison boar bobcat buffalo bunny camel canary caribou
    cat chamois cheetah chick cicada cobra cod condor cougar coyote crab crane cricket crow cuckoo curlew deer dingo
    dodo dolphin donkey dove dragon drake duck eagle eel egret eland elk emu falcon fawn ferret finch firefly flea
    fox frog gannet gazelle gecko gibbon giraffe gnu goat goose gopher grouse gull hare hawk hedgehog heron hippo
    hornet horse hound husky ibex ibis iguana impala jackal jackdaw jaguar jay kestrel kite kiwi koala koi krill
    lark lemming lemur leopard linnet lion lizard llama lobster loon lynx macaw magpie mallard manatee marlin marmot
    marten mink minnow mole moose moth mouse mule narwhal newt ocelot octopus okapi orca oriole osprey ostrich otter
    owl oyster panda panther parrot pelican penguin perch pigeon pike pony puffin puma python quail rabbit raccoon
    ram raven robin salmon seal shark sheep shrew skunk sloth snail sparrow spider squid stag starling stoat stork
    swallow swan tapir tern tiger toad toucan trout tuna turtle viper vole walrus weasel whale wolf wombat wren yak
    zebra
"""


def new_name() -> str:
    """One at random; secrets, so that nobody can tell which ones come next."""
    return f"{secrets.choice(_FIRST.split())}-{secrets.choice(_SECOND.split())}"
