"""Patterns of orders to forget, one entry per language. Data for `forgetting.read_orders`.

Each pattern matches a whole sentence without its final mark.  The group `what` is the content; an
order without the group concerns all memory of the person.
"""

from __future__ import annotations

import dataclasses
import re

_W = r"(?P<what>.+?)"


@dataclasses.dataclass(frozen=True)
class Language:
    """Orders of one language."""

    lead: str
    """Words in front of an order."""
    tail: str
    """Words behind it."""
    orders: tuple[str, ...]
    wide: str
    """A content that means all memory of the person."""
    intro: str
    """Words in front of a content: "that", "everything you know about"."""
    none: str
    """A content that is no memory: "Forget it", "Forget to call"."""
    states: str = r"(?!)"
    """An introduction of a statement."""


ENGLISH = Language(
    lead=r"please|ok|okay|hey|hi|hello|so|and|also|now|actually|well|oh|no(?=,)|sorry|wait|just|then|but|assistant|by the way",
    tail=r"please|thanks|thank you|now|for me|completely|entirely|for good|forever|immediately|right now|from now on|again",
    orders=(
        r"i want (?:all |everything of )?my (?:personal )?(?:data|memory|memories|information) (?:to be )?(?:deleted|erased|removed|wiped|forgotten)",
        rf"(?:ASK)(?:please |just |completely )*(?:forget|unlearn|stop remembering|don't remember|do not remember|no longer remember) {_W}",
        rf"(?:ASK)(?:please |just )*(?:forget|delete|erase|remove|wipe|clear|drop|purge|scrub|strike) {_W} from (?:your |the |its )?(?:long-term )?(?:memory|memories|records|notes|database|storage|mind)",
        rf"(?:ASK)(?:please |just |completely )*(?:delete|erase|remove|wipe|clear|purge|forget) (?:absolutely )?(?:everything|all|anything|whatever|what|all (?:of )?the (?:information|data|memories|details)|(?:any|the) (?:information|data|memories)) (?:that )?(?:you(?:'ve| have)? ?(?:ever )?(?:know|remember|learned|learnt|stored|saved|collected|hold|have|kept)(?: (?:stored|saved|collected|kept))?) (?:about|on|of) {_W}",
        rf"(?:ASK)(?:please |just |completely )*(?:delete|erase|remove|wipe|clear|purge) (?:all |any |every |the )*(?:of )?(?:your |the )?(?:information|info|data|memories|memory|records|everything) (?:about|on|of|concerning) {_W}",
        r"(?:ASK)(?:please |just |completely )*(?:delete|erase|remove|wipe|clear|purge|reset|empty) (?:all |every |any )?(?:of )?(?:your (?:whole |entire |long-term )?(?:memory|memories)|my (?:personal |stored |saved |own )?(?:data|memory|memories|information|info|records|profile))(?: (?:that )?you (?:have|hold|stored|keep|saved)(?: (?:about|on|of) me)?)?",
        r"(?:ASK)(?:please |just |completely )*(?:delete|erase|wipe|clear|purge) (?:everything|all) (?:that )?you(?:'ve| have)? ?(?:know|remember|stored|saved|learned|have)(?: (?:about|on|of) (?:me|us))?",
    ),
    wide=r"(?:absolutely |completely )?(?:everything|all)(?: of it)?(?: (?:that )?(?:you(?:'ve| have)? ?(?:ever )?(?:know|remember|have|learned|learnt|stored|saved|heard)|i(?:'ve| have)? ?(?:ever )?(?:told|said to|shared with) you|we(?:'ve| have)? ?(?:ever )?(?:talked|spoke|spoken|discussed|chatted)(?: about)?))?(?: (?:about|on|of|from) (?:me|us|myself))?|(?:about |all about )?(?:me|myself)|who i am|that i (?:ever )?exist(?:ed)?|my (?:personal )?data",
    intro=r"(?:the fact )?that |(?:everything|all|anything|whatever|what)(?: (?:that )?(?:you(?:'ve| have)? ?(?:ever )?(?:know|remember|have|learned|heard|stored|saved)|i(?:'ve| have)? ?(?:ever |just )?(?:told you|said|mentioned|wrote)))? (?:about|on|of|regarding|concerning) |all (?:the |of the )?(?:information|details|things|data|stuff) (?:about|on) |(?:the )?(?:things|stuff|details|information) (?:i (?:said|told you) )?about |about ",
    none=r"me .*|(?:it|this|that|these|those|them|him|her|you|yourself)(?: (?:all|please|for now|then|now))?|to .*|(?:about )?(?:it|this|that)|(?:everything|all|anything|what)?\s*(?:the |of the |your |all |any |my )*(?:above|previous|prior|earlier|last|preceding|system|file|line|row|column|instructions?|rules?|prompts?|guidelines?|first|second|third|other)\b.*|what (?:i|you|we) (?:just )?(?:said|wrote|asked)|everything (?:above|before|else).*|.*\b(?:instructions?|prompts?|guidelines)|(?:my|the|your|his|her|our) (?:last|previous|first|second|earlier) (?:question|message|request|sentence|answer|point|prompt|step)s?",
    states=r"(?:the fact )?that |(?:i|i'm|i've|we)\b",
)
GERMAN = Language(
    lead=r"bitte|ok|okay|hey|hallo|also|und|jetzt|nun|nein(?=,)|ach|oh|doch|übrigens|aber|dann",
    tail=r"bitte|danke|sofort|wieder|komplett|vollständig|jetzt|mal",
    orders=(
        rf"(?:vergiss|vergess|vergesst|vergessen sie)(?: bitte| doch| einfach| jetzt| mal| wieder)*,? {_W}",
        rf"(?:kannst|könntest|würdest|können|könnten|würden) (?:du|sie)(?: bitte| mal)* vergessen,? {_W}",
        rf"(?:kannst|könntest|würdest|können|könnten|würden) (?:du|sie)(?: bitte| mal)* {_W} vergessen",
        rf"(?:du sollst|ich möchte,? dass du|ich will,? dass du) {_W} (?:vergessen|vergisst)",
        rf"(?:merk|merke) dir(?: bitte)? nicht(?: mehr)?,? {_W}",
        rf"(?:lösche?|entferne?|streiche?|tilge|löschen sie|entfernen sie)(?: bitte)? {_W} aus (?:dei|ih)?(?:nem|rem|dem|nen|ren|m) ?(?:gedächtnis|speicher|erinnerung(?:en)?|notizen)",
        rf"(?:lösche?|entferne?|löschen sie)(?: bitte)? (?:alles|alle (?:daten|informationen)),? (?:was (?:du|sie) |die (?:du|sie) )?(?:über|von|zu) {_W}(?: (?:weißt|wissen|hast|gespeichert hast|gespeichert haben))?",
        r"(?:lösche?|leere?|lösch|löschen sie|leeren sie)(?: bitte)? (?:alle?s? )?(?:deine?n?|ihre?n?|meine?) (?:ganzen? |gesamten? |gesamtes |ganzes |persönlichen |gespeicherten )*(?:speicher|gedächtnis|erinnerungen|daten|informationen)(?: (?:über|von|an) mich)?",
    ),
    wide=r"(?:einfach )?alles(?:,? was (?:du|sie) (?:(?:über|von) (?:mich|mir) )?(?:weißt|wissen|gespeichert hast|gespeichert haben|gelernt hast)|,? was ich (?:dir|ihnen)? ?(?:je |jemals )?(?:gesagt|erzählt) habe)?(?: (?:über|von) (?:mich|mir))?|mich|meine (?:persönlichen )?daten|wer ich bin",
    intro=r"(?:die tatsache,? )?dass |alles,? was (?:du|sie) (?:über|von|zu) |alles(?: über| von| zu) |(?:das,? )?was ich (?:dir )?(?:über|von|zu) |das mit |die sache mit |(?:alle )?(?:informationen|daten) (?:über|zu) ",
    none=r"(?:es|das|dies|ihn|sie|mal)(?: (?:wieder|einfach|alles))?|(?!dass |ich ).* nicht|nicht\b.*|nie(?:mals)?\b.*|zu .*|.*\b(?:anweisung|regel|vorgabe|prompt)\w*",
    states=r"(?:die tatsache,? )?dass |ich\b",
)
FRENCH = Language(
    lead=r"s'il (?:te|vous) plaît|stp|svp|ok|bon|alors|et|maintenant|non(?=,)|ah|oh|bonjour|salut|mais|en fait",
    tail=r"s'il (?:te|vous) plaît|stp|svp|merci|maintenant|tout de suite|complètement|définitivement",
    orders=(
        rf"(?:oublie|oubliez|veuillez oublier|(?:peux-tu|pourrais-tu|tu peux|pouvez-vous|pourriez-vous|vous pouvez)(?: s'il (?:te|vous) plaît)? oublier|(?:je veux|je voudrais|j'aimerais) que (?:tu oublies|vous oubliiez)) {_W}",
        r"(?:oublie|oubliez)-moi",
        rf"ne te souviens (?:plus|pas) (?:de )?{_W}",
        rf"(?:efface|effacez|supprime|supprimez|retire|retirez|enlève|enlevez) {_W} de (?:ta|votre|la) mémoire",
        rf"(?:efface|effacez|supprime|supprimez) (?:tout ce que|toutes les (?:informations|données) que) (?:tu sais|vous savez|tu as|vous avez)(?: enregistrée?s?)? (?:sur|de|à propos de) {_W}",
        r"(?:efface|effacez|supprime|supprimez|vide|videz|réinitialise|réinitialisez) (?:toute?s? |tous )?(?:ta|votre|mes|ma|tes|vos) (?:mémoire|données|données personnelles|informations|infos|souvenirs)(?: (?:sur moi|me concernant))?",
    ),
    wide=r"(?:absolument )?tout(?: ce que (?:tu sais|vous savez|tu as appris|je t'ai dit|je vous ai dit|je t'ai raconté)(?: (?:sur|de|à propos de) moi)?)?(?: (?:sur|de|à propos de) moi)?|moi|mes données|qui je suis",
    intro=r"(?:le fait )?que |(?:le fait )?qu'|tout ce que (?:tu sais|vous savez|j'ai dit|je t'ai dit) (?:sur|de|à propos de) |ce que (?:j'ai|je t'ai) dit (?:sur|de|à propos de) |tout (?:sur|à propos de) |à propos de ",
    none=r"(?:ça|cela|ceci|le|la|-le|-la)|(?:pas|jamais|plus)\b.*|d[e'] ?\w+(?:er|ir|re)\b.*|(?:ce que|tout ce que) (?:je viens de dire|j'ai dit|précède)|.*\b(?:instructions|consignes|règles)",
    states=r"(?:le fait )?que |(?:le fait )?qu'|(?:je|j'ai|j')\b",
)
SPANISH = Language(
    lead=r"por favor|ok|vale|bueno|oye|hola|y|ahora|no(?=,)|ah|pero|entonces",
    tail=r"por favor|gracias|ahora|ya|por completo|completamente|de una vez",
    orders=(
        rf"(?:olvida|olvide|olvidad|olvídate de|olvídese de|olvidate de|(?:puedes|podrías|puede|podría)(?: por favor)? olvidar(?:te de)?|(?:quiero|quisiera|me gustaría) que (?:te )?olvid(?:es|aras|e)(?: de)?) {_W}",
        r"olvídame|olvidame|olvídate de mí|olvídese de mí",
        rf"no (?:recuerdes|recuerde)(?: más)? {_W}",
        rf"(?:borra|borre|elimina|elimine|quita|quite|suprime) {_W} de (?:tu|su|la) memoria",
        rf"(?:borra|borre|elimina|elimine) (?:todo lo que|toda la información que|todos los datos que) (?:sabes|sabe|recuerdas|tienes|tiene|guardas)(?: guardad[oa]s?)? (?:de|sobre|acerca de) {_W}",
        r"(?:borra|borre|elimina|elimine|limpia|limpie|vacía|vacíe|resetea|reinicia) (?:toda |todos |todas )?(?:tu|tus|su|sus|mi|mis) (?:memoria|recuerdos|datos|datos personales|información|informaciones)(?: (?:sobre|de) mí)?",
    ),
    wide=r"(?:absolutamente )?todo(?: lo que (?:sabes|sabe|recuerdas|has aprendido|te (?:he )?(?:dicho|dije|contado|conté))(?: (?:de|sobre) mí)?)?(?: (?:de|sobre) mí)?|(?:a |de )?mí|mis datos|quién soy",
    intro=r"(?:el hecho de )?que |todo lo que (?:sabes|sabe|te dije|te he dicho) (?:de|sobre|acerca de) |lo que (?:te )?(?:dije|he dicho) (?:de|sobre|acerca de) |todo (?:sobre|acerca de) |lo de ",
    none=r"(?:lo|eso|esto|ello)|de \w+(?:ar|er|ir)\b.*|(?:lo que|todo lo que) (?:dije|acabo de decir|precede)|.*\b(?:instrucciones|reglas)",
    states=r"(?:el hecho de )?que |yo\b",
)
ITALIAN = Language(
    lead=r"per favore|per piacere|ok|allora|e|ora|adesso|no(?=,)|ah|ciao|ma|senti",
    tail=r"per favore|per piacere|grazie|ora|adesso|subito|completamente",
    orders=(
        rf"(?:dimentica|dimentichi|dimenticate|dimenticati|scorda|scordati|(?:puoi|potresti|può|potrebbe)(?: per favore)? (?:dimenticare|dimenticarti)|(?:voglio|vorrei) che (?:tu )?dimentic(?:hi|assi)) (?:di )?{_W}",
        r"dimenticami|scordami|dimenticati di me",
        rf"non ricordare (?:più )?{_W}",
        rf"(?:cancella|cancelli|elimina|elimini|rimuovi|togli) {_W} dalla (?:tua |sua )?memoria",
        rf"(?:cancella|cancelli|elimina|elimini) (?:tutto (?:quello|ciò|quel)? ?che|tutte le informazioni che) (?:sai|sa|ricordi|hai)(?: salvat[oe])? (?:di|su|riguardo a) {_W}",
        r"(?:cancella|cancelli|elimina|elimini|svuota|azzera|resetta|pulisci) (?:tutta |tutti |tutte )?(?:la tua|la sua|i tuoi|i miei|le mie) (?:memoria|ricordi|dati|dati personali|informazioni)(?: su di me)?",
    ),
    wide=r"(?:assolutamente )?tutto(?: (?:quello|ciò|quel) che (?:sai|sa|ricordi|hai imparato|ti ho (?:detto|raccontato))(?: (?:di|su|su di) me)?)?(?: (?:di|su|su di) me)?|(?:di )?me|i miei dati|chi sono",
    intro=r"(?:il fatto )?che |tutto (?:quello|ciò|quel) che (?:sai|ti ho detto) (?:di|su|del|della|sul|sulla) |(?:quello|ciò) che (?:ti )?ho detto (?:di|su|del|della|sul|sulla) |tutto (?:su|sul|sulla) ",
    none=r"(?:lo|ciò|questo|quello)|(?:di )?\w+(?:are|ere|ire)\b.*|(?:quello|ciò) che ho (?:appena )?detto|.*\b(?:istruzioni|regole)",
    states=r"(?:il fatto )?che |io\b",
)
PORTUGUESE = Language(
    lead=r"por favor|ok|bom|então|olá|oi|e|agora|não(?=,)|ah|mas",
    tail=r"por favor|obrigad[oa]|agora|já|por completo|completamente",
    orders=(
        rf"(?:esquece|esqueça|esqueçam|esquece-te d[eao]|esqueça-se d[eao]|(?:podes|pode|poderia|você pode)(?: por favor)? esquecer(?:-te)?|(?:quero|queria|gostaria) que (?:te |você |se )?(?:esqueças|esqueça|esquecesses|esquecesse)(?: de)?) {_W}",
        r"(?:me esqueça|me esquece|esquece-me|esqueça-me|esquece-te de mim|esqueça-se de mim)",
        rf"não (?:te |se )?lembr(?:es|e|a) mais (?:de )?{_W}",
        rf"(?:apaga|apague|elimina|elimine|remove|remova|exclui|exclua|deleta|delete) {_W} d[ae] (?:tua |sua )?memória",
        rf"(?:apaga|apague|elimina|elimine|exclui|exclua|deleta|delete) (?:tudo o? ?que|todas as informações que|todos os dados que) (?:sabes|sabe|você sabe|tens|tem|você tem|guardou)(?: guardad[oa]s?)? (?:de|sobre|a respeito de) {_W}",
        r"(?:apaga|apague|elimina|elimine|exclui|exclua|deleta|delete|limpa|limpe|zera|zere) (?:toda |todos |todas )?(?:[ao]s? )?(?:tua|tuas|sua|suas|meus|minha|minhas) (?:memória|memórias|dados|dados pessoais|informações)(?: sobre mim)?",
    ),
    wide=r"(?:absolutamente )?tudo(?: o? ?que (?:sabes|sabe|você sabe|(?:eu )?(?:te |lhe |já )*(?:disse|contei))(?: (?:de|sobre) mim)?)?(?: (?:de|sobre) mim)?|(?:de )?mim|(?:os )?meus dados|quem (?:eu )?sou",
    intro=r"(?:o fato de |o facto de )?que |tudo o? ?que (?:sabes|sabe|você sabe|(?:eu )?(?:te )?disse) (?:de|sobre|a respeito de) |o que (?:eu )?(?:te )?disse (?:de|sobre|a respeito de) |tudo sobre ",
    none=r"(?:isso|isto|aquilo|-o)|de \w+(?:ar|er|ir)\b.*|o que (?:eu )?(?:acabei de dizer|disse)|.*\b(?:instruções|regras)",
    states=r"(?:o fato de |o facto de )?que |eu\b",
)
RUSSIAN = Language(
    lead=r"пожалуйста|ок|окей|так|ну|и|а|теперь|нет(?=,)|ой|привет|но",
    tail=r"пожалуйста|спасибо|сейчас|полностью|навсегда",
    orders=(
        rf"(?:забудь|забудьте|(?:ты )?(?:можешь|можете|мог бы ты|могла бы ты|не могли бы вы)(?: пожалуйста)? забыть|(?:больше )?не помни(?:те)?(?: больше)?)(?: пожалуйста)?,? {_W}",
        rf"(?:удали|удалите|сотри|сотрите|убери|уберите|вычеркни)(?: пожалуйста)? {_W} из (?:своей |твоей |вашей )?памяти",
        rf"(?:удали|удалите|сотри|сотрите)(?: пожалуйста)? (?:вс[её],? что|всю информацию,? которую|все данные,? которые) (?:ты |вы )?(?:знаешь|знаете|помнишь|помните|хранишь) (?:о|об|обо|про) {_W}",
        r"(?:удали|удалите|сотри|сотрите|очисти|очистите|сбрось|сбросьте)(?: пожалуйста)? (?:все |всю |вс[её] )?(?:мои (?:личные )?данные|свою память|твою память|память(?: обо мне)?|воспоминания обо мне|(?:информацию |данные )?обо мне)",
    ),
    wide=r"вс[её](?:,? что (?:ты |вы )?(?:знаешь|знаете|помнишь|помните)(?: (?:обо мне|про меня))?|,? что я (?:тебе |вам )?(?:говорил|сказал|рассказал|рассказывал)а?)?(?: (?:обо мне|про меня))?|(?:обо мне|про меня|меня|мне)|мои данные|кто я",
    intro=r"(?:о том,? |тот факт,? )?что |вс[её],? что (?:ты |вы )?(?:знаешь|знаете|помнишь) (?:о|об|обо|про) |(?:то|вс[её]),? что я (?:тебе )?(?:сказал|говорил)а? (?:о|об|обо|про) |вс[её] (?:о|об|обо|про) |(?:о|об|обо|про) ",
    none=r"(?:это|об этом|про это|его|её|ее|их)|\w+ть\b.*|.*\b(?:инструкции|правила)",
    states=r"(?:о том,? |тот факт,? )?что |я\b",
)
WESTERN = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, RUSSIAN)

_ASK = r"(?:can|could|would|will) you (?:please |kindly |just )*|you (?:should|must|can|may|need to|have to) |i(?:'d like| would like| want| need| ask)(?:ed)? you to |i'd prefer you to |i want you to |"
_ME = r"(?:我|俺|私|僕|わたし|ぼく|自分)"


def compiled(language: Language) -> tuple[re.Pattern[str], ...]:
    """The orders of a language, with their leads and tails."""
    lead, tail = (
        rf"(?:(?:{language.lead})[,:!]*\s+)*",
        rf"(?:[,\s]+(?:{language.tail}))*",
    )
    return tuple(
        re.compile(rf"{lead}(?:{order.replace('ASK', _ASK)}){tail}", re.IGNORECASE)
        for order in language.orders
    )


CHINESE = (
    rf"(?:(?:请|請|麻烦|麻煩|帮我|幫我|拜托|拜託|能不能|可不可以|可以|你能|你)+(?:忘记|忘記|忘掉|忘了|别记得|不要记得|不要記得|不要记住|不要記住)|(?:忘记|忘記|忘掉)(?=我|关于|關於|所有|一切|全部|有关|有關)){_W}(?:好?[吗嗎])?",
    rf"(?:请|請|麻烦|麻煩|帮我|幫我|你|能不能|可以)*(?:把|将|將){_W}(?:都|全部|全都|彻底|徹底)?(?:忘掉|忘了|忘记|忘記|从(?:你的)?(?:记忆|内存)(?:中|里)?(?:删除|删掉|抹去|清除)|從(?:你的)?記憶(?:中|裡)?(?:刪除|刪掉|抹去|清除))",
    rf"(?:请|請|麻烦|麻煩|帮我|幫我|你)*(?:从|從)(?:你的)?(?:记忆|記憶)(?:中|里|裡)?(?:删除|刪除|删掉|刪掉|抹去|清除|移除){_W}",
    rf"(?:请|請|麻烦|麻煩|帮我|幫我|你)*(?:删除|刪除|删掉|刪掉|抹去|清除)(?:你)?(?:所有|全部)?(?:关于|關於|有关|有關){_W}的(?:所有|全部|一切)?(?:记忆|記憶|信息|資訊|数据|資料|资料|内容|记录|記錄)?",
    r"(?:请|請|麻烦|麻煩|帮我|幫我|你|能不能|可以)*(?:删除|刪除|删掉|刪掉|清除|清空|抹去|重置)(?:你)?(?:所有|全部)?(?:的)?(?:(?:关于|關於)?我的(?:所有|全部|个人|個人)*(?:数据|數據|資料|资料|信息|資訊|记忆|記憶|记录|記錄)|你的(?:所有|全部)?(?:记忆|記憶)|记忆|記憶)",
)
CHINESE_WIDE = r"(?:你(?:所)?(?:知道|记得|記得|了解)的?)?(?:所有|全部|一切)?(?:关于|關於|有关|有關)?我(?:的)?(?:一切|所有|全部)?(?:事情|信息|資訊|资料|資料|数据|內容|内容|事|东西)?|(?:所有|全部|一切)(?:事情|东西|信息|内容)?|我(?:告诉|告訴|跟你说|对你说)过?你?的?(?:一切|所有(?:事情)?)|我这个人|我是谁"
CHINESE_INTRO = r"(?:关于|關於|有关|有關)|我(?:说|說|告诉你|告訴你)过?的?(?:关于|關於)|(?:所有|一切)?(?:关于|關於)"
CHINESE_NONE = r"(?:它|他|她|这个|這個|那个|那個|这件事|這件事|这|那|吧|这些|这事)|.*(?:吗|嗎|怎么办|怎麼辦|指令|规则|規則|提示词)|了.*|(?:我)?(?:刚才|刚刚|剛才|剛剛|上面)(?:说的|說的)?.*|要.*"
JAPANESE = (
    rf"(?:お願い(?:です)?(?:から)?[、,]?|どうか|じゃあ[、,]?|もう|では[、,]?)*{_W}(?:(?:という|って|っていう)?(?:こと|事実|の)?(?:を|は|も))?(?:全部|すべて|全て|完全に|もう)?忘れて(?:ください(?:ませんか)?|下さい|くれ(?:る|ない|ませんか|ますか)?|もらえ(?:る|ますか|ませんか)?|ほしい(?:です)?|欲しい(?:です)?|いい(?:です)?|ちょうだい|ね|よ)*",
    rf"{_W}(?:を|は)?(?:あなたの|君の|きみの)?(?:記憶|メモリー?)から(?:削除|消去|消|除去)し(?:て|てください|て下さい|てくれ|てほしい)*(?:ください|下さい)?",
    r"(?:お願い(?:です)?[、,]?|どうか)*(?:あなたの|君の|きみの|私に関する|私の|僕の)?(?:記憶|メモリー?)を(?:全部|すべて|全て)?(?:消して|消去して|削除して|リセットして|クリアして)(?:ください|下さい|くれ|ほしい|くれますか|くれませんか)*",
    r"(?:お願い(?:です)?[、,]?|どうか)*(?:私|僕|俺)(?:の|に関する|についての)(?:全ての|すべての|個人)?(?:データ|情報|記録)を(?:全部|すべて|全て)?(?:消して|消去して|削除して)(?:ください|下さい|くれ|ほしい|くれますか|くれませんか)*",
)
JAPANESE_WIDE = rf"(?:あなたが)?{_ME}(?:について|のことで)(?:知っ|覚え)ている|{_ME}の?|{_ME}?(?:の|に関する|について)?(?:知っている)?(?:こと|事|全て|すべて|全部|情報|何もかも)(?:を|は)?(?:全部|すべて|全て|何もかも)?|{_ME}|(?:全部|すべて|全て|何もかも)(?:のこと)?|(?:あなたが)?{_ME}について知っている(?:こと|全て|すべて)(?:を)?(?:全部|すべて|全て)?|{_ME}が(?:話した|言った|教えた)こと(?:を)?(?:全部|すべて|全て)"
JAPANESE_INTRO = r"(?!)"
JAPANESE_NONE = r"(?:それ|これ|あれ|そのこと|このこと|今の(?:話|こと)?|さっきの(?:話|こと)?)(?:は|を|も)?|.*(?:指示|ルール|命令)"
JAPANESE_OUTRO = r"(?:の|(?:だ)?(?:という|って|っていう)(?:こと|話|事実)?|のこと|について(?:の)?(?:こと|話)?|に関すること|こと|の話)?(?:を|は|も)?(?:全部|すべて|全て)?"
_KOREAN_GIVE = r"(?:\s?줘(?:요)?|\s?주세요|\s?주십시오|\s?줄래(?:요)?|\s?주시겠어요|\s?주겠니|\s?줄 수 있(?:어|니|나요|을까요?)|요|라)?"
KOREAN = (
    rf"(?:제발|부탁인데|그냥|이제|음|자|혹시)?[\s,]*{_W}\s*(?:모두|전부|다|그냥|제발)?\s*(?:잊어|잊어버려|잊으세요|잊어버리세요){_KOREAN_GIVE}",
    rf"{_W}\s*(?:네|너의|당신의|당신)?\s*(?:기억|메모리)에서\s*(?:지워|삭제해|없애){_KOREAN_GIVE}",
    rf"(?:네|너의|당신의|니|나에 대한|저에 대한)?\s*(?:모든\s*)?(?:기억|메모리)(?:을|를)?\s*(?:모두|전부|다)?\s*(?:지워|삭제해|초기화해|비워){_KOREAN_GIVE}",
    rf"(?:내|제|나의|저의|나에 대한|저에 대한)\s*(?:모든\s*)?(?:데이터|정보|개인정보|기록)(?:를|을)?\s*(?:모두|전부|다)?\s*(?:지워|삭제해){_KOREAN_GIVE}",
)
KOREAN_WIDE = r"(?:네가|당신이)?\s*(?:나|저|내|제)(?:에 대한|에 대해서?|에 관한|에 관해|를|을)?\s*(?:알고 있는|아는|기억하는)?\s*(?:모든 ?(?:것|걸|정보|기억)|전부|모두|다)?(?:을|를)?|(?:모든 ?(?:것|걸)|전부|모두|다)(?:을|를)?|내가 (?:말한|얘기한) (?:모든 ?(?:것|걸)|전부)(?:을|를)?"
KOREAN_NONE = r"(?:그거|그건|그것|이거|이건|이것|방금 ?(?:말한|한 말).*|그 말)(?:은|는|을|를)?|.*(?:지시|규칙|명령).*"
KOREAN_OUTRO = r"(?:(?:이?라|다|ㄴ다|는다)?는 ?(?:것|걸|거|사실|점)|에 대한 ?(?:것|걸|모든 것|기억|정보)|에 대해서?|에 관해서?|얘기|이야기)?\s*(?:을|를|은|는|도)?"
