"""Words of ten languages that tell what a clause is about: people, topics, negation. Data.

A word stands for itself; with `*` it is a prefix.  Words of Chinese, Japanese and Korean are found
anywhere, as these scripts do not separate words.
"""

from __future__ import annotations

import re

KIN = {
    "son": "son sohn sohnes fils hijo figlio filho сын сына сыну сыном сыне 儿子 兒子 息子 아들",
    "daughter": "daughter tochter fille hija figlia filha дочь дочка дочери 女儿 女兒 娘 딸",
    "child": "child children kid kids baby toddler kind kinder enfant enfants niño niños bambino bambini criança crianças ребёнок ребенок дети 孩子 子供 아이",
    "sister": "sister sis schwester sœur soeur hermana sorella irmã сестра сестры сестре сестру сестрой 姐姐 妹妹 姐妹 姉 妹 누나 언니 여동생 자매",
    "brother": "brother bro bruder frère hermano fratello irmão брат брата брату братом 哥哥 弟弟 兄弟 兄 弟 형 오빠 남동생 형제",
    "mother": "mother mum mom mummy mama mutter mère maman madre mamá mamma mãe мама мамы мать матери 妈妈 媽媽 母亲 母親 母 お母さん 엄마 어머니",
    "mother-in-law": "mother-in-law schwiegermutter belle-mère suegra suocera sogra свекровь тёща 婆婆 岳母 義母 시어머니 장모",
    "father-in-law": "father-in-law schwiegervater beau-père suegro suocero sogro свёкор тесть 公公 岳父 義父 시아버지 장인어른",
    "sister-in-law": "sister-in-law schwägerin belle-sœur cuñada cognata cunhada золовка невестка 嫂子 義姉 義妹 시누이 처제",
    "brother-in-law": "brother-in-law schwager beau-frère cuñado cognato cunhado шурин зять 姐夫 妹夫 義兄 義弟 매형 처남",
    "father": "father dad daddy papa vater père padre papá papà babbo pai отец отца папа папы 爸爸 父亲 父親 父 お父さん 아빠 아버지",
    "parents": "parents eltern padres genitori pais родители родителей 父母 両親 부모님",
    "wife": "wife ehefrau frau femme épouse esposa mujer moglie mulher жена жены жене жену 妻子 老婆 太太 妻 家内 아내 와이프",
    "husband": "husband ehemann mann mari époux esposo marido marito муж мужа мужу 丈夫 老公 先生 夫 主人 남편",
    "partner": "partner partnerin girlfriend boyfriend fiancé fiancée fiance fiancee spouse freundin petite copain copine novio novia fidanzato fidanzata ragazza namorado namorada девушка парень 女朋友 男朋友 彼女さん 恋人 여자친구 남자친구",
    "ex": "ex ex-wife ex-husband ex-girlfriend ex-boyfriend exfrau exmann ex-femme ex-mari exnovio exnovia бывший бывшая 前妻 前夫 前任 元カノ 元カレ 전남친 전여친",
    "friend": "friend friends bestie buddy mate freund freunde ami amie amis amigo amiga amigos amico amica amici друг друга другу подруга друзья 朋友 友達 友人 친구",
    "grandmother": "grandmother grandma granny gran nana großmutter oma grand-mère mamie abuela nonna avó бабушка 奶奶 外婆 祖母 おばあさん 할머니",
    "grandfather": "grandfather grandpa granddad großvater opa grand-père papi abuelo nonno avô дедушка 爷爷 外公 祖父 おじいさん 할아버지",
    "aunt": "aunt auntie tante tía zia tia тётя тетя 阿姨 姑姑 おばさん 이모 고모",
    "uncle": "uncle onkel oncle tío zio tio дядя 叔叔 舅舅 おじさん 삼촌",
    "cousin": "cousin cousine cousins primo prima cugino cugina двоюродный кузен 表哥 表妹 いとこ 사촌",
    "niece": "niece nichte nièce sobrina sobrinha племянница 侄女 姪 조카딸",
    "nephew": "nephew neffe neveu sobrino sobrinho nipote племянник 侄子 甥 조카",
    "boss": "boss manager supervisor chef chefin patron jefe jefa capo chefe начальник 老板 上司 상사",
    "colleague": "colleague colleagues coworker co-worker kollege kollegin collègue colega collega коллега 同事 同僚 동료",
    "neighbour": "neighbour neighbor neighbours neighbors nachbar nachbarin voisin voisine vecino vecina vicino vicina vizinho vizinha сосед соседка 邻居 隣人 이웃",
    "roommate": "roommate flatmate housemate mitbewohner mitbewohnerin colocataire compañero coinquilino сожитель 室友 ルームメイト 룸메이트",
    "doctor": "doctor physician therapist dentist arzt ärztin médecin médico médica dottore врач 医生 医者 의사",
    "teacher": "teacher professor lehrer lehrerin prof maestro maestra insegnante учитель 老师 先生 선생님",
    "cat": "cat kitten katze kater chat gato gata gatto gatta кот кошка 猫 고양이",
    "dog": "dog puppy hund chien perro perra cane cachorro собака пёс 狗 犬 강아지 개",
}
SELF = (
    "i me my mine myself i'm i've i'd i'll im ive we us our ours we're we've "
    "ich mich mir mein meine meinem meinen meiner meines wir uns unser unsere "
    "je j' j'ai j'habite j'aime moi me m' mon ma mes nous notre nos "
    "yo mí mi mis me conmigo nosotros nuestro nuestra soy estoy tengo vivo trabajo "
    "io mi me mio mia miei mie noi nostro nostra sono ho abito vivo lavoro "
    "eu me mim meu minha meus minhas comigo nós nosso nossa sou estou tenho moro trabalho "
    "я меня мне мной мой моя моё мое мои моего моей моему мою моим нас мы наш наша "
    "我 咱 我们 我們 私 僕 俺 わたし ぼく 나 내 저 제 나는 내가 저는 제가 우리"
)
YOU = (
    "you your yours you're you've you'd du dich dir dein deine deinem deinen deiner sie ihr ihre ihnen ihren euch tu te toi ton ta tes "
    "vous votre vos tú ti tus usted su sus lei suo sua tuo tua tuoi você vocês seu sua seus suas teu tua ты тебя тебе твой твоя вы вас вам "
    "ваш ваша 你 您 あなた 君 당신 너 네"
)
THIRD = (
    "he him his she her hers they them their theirs er ihn ihm sein seine seinem seinen il lui elle ils elles él ella ellos ellas "
    "egli ella lei ele ela eles elas он его ему она её ее ей они их 他 她 他们 她们 彼 彼女 그는 그녀 그가 그의"
)
REPORTS = (
    "say says said tell tells told think thinks thought know knows knew believe believes believed mention mentioned claims claim "
    "diagnosed remember remembers sagt sagte sagen denkt dachte weiß glaubt dit disent pense croit sait dice dijo piensa cree sabe "
    "disse pensa crede diz acha говорит сказал сказала думает знает 说 說 认为 觉得 知道 言う 言った 思う"
)
THAT = "that dass que qu' che что"
NEGATION = (
    "not no never none nothing neither nor cannot without nicht kein keine keinen keinem nie niemals ne n' pas jamais aucun aucune "
    "nunca ningún ninguna jamás non mai nessun nessuna não nem nunca нет не никогда ни 不 没 沒 无 別 ない ません なかった 안 않 없"
)
CONCEPTS = {
    "home": "live lives living lived reside* residence home address street move moved moving apartment flat house wohn* adresse* zieh* zog umgezogen "
    "straße wohnung zuhause habit* adresse vis déménag* rue domicile vivo vive vivir vivimos vivía vivia resid* domicilio dirección mudé mudo mudado mudarme mudei calle abito abita abitare indirizzo trasfer* "
    "moro mora morar morava endereço rua живу живёт живет жить прожива* переех* адрес* дом улиц* 住 搬 地址 家 引っ越 住所 살고 살아 삽니다 이사 주소 거주",
    "job": "job work works worked working employ* employer company boss career profession office arbeit* beruf* firma stelle angestellt* travail* emploi* "
    "boulot métier entreprise trabaj* empleo empresa puesto lavor* impiego mestiere azienda trabalh* emprego работ* должность профессия "
    "工作 上班 职业 職業 公司 働 仕事 勤め 会社 일하 일해 직장 회사 직업",
    "money": "salary income wage earn* debt* loan* gehalt* einkommen verdien* schulden kredit* salaire* revenu gagne dette* prêt sueldo salario ingresos gano gana "
    "deuda* stipendio reddito guadagn* debito salário renda ganho dívida зарплат* доход долг кредит 工资 薪水 收入 债 給料 年収 借金 월급 연봉 빚",
    "health": "allerg* intoleran* illness ill sick disease diagnos* medic* pill* tablet* asthma diabet* hives rash anaphyla* depress* anxiety tolerate "
    "allergie* allergisch* unverträglich* vertrage verträgt krank* medikament* ausschlag malad* médic* urticaire enferm* alérg* alergia* urticaria "
    "malatt* orticaria doença doente аллерг* болезнь болен больна диагноз* лекарств* сыпь 过敏 過敏 病 药 疹 アレルギー 病気 薬 蕁麻疹 湿疹 알레르기 병 약 두드러기",
    "birthday": "birthday born birth age aged geburtstag* geboren alter anniversaire né née naissance âge cumpleaños nací nacido nacimiento edad compleanno nato "
    "nata nascita età aniversário nasci nascimento idade рождения родился родилась возраст лет 生日 出生 年龄 岁 誕生日 生まれ 年齢 歳 생일 태어 나이 살이",
    "name": "name named call called names heiß* namens appelle nom prénom surnom llam* nombre apellido chiam* nome cognome chamo chama имя зовут фамилия "
    "名字 叫 姓名 名前 이름",
    "phone": "phone telephone mobile telefon* handy* téléphone portable teléfono móvil celular telefono cellulare telefone telemóvel телефон* 电话 電話 手机 携帯 전화 핸드폰",
    "email": "email e-mail mail gmail courriel correo почта почты имейл 邮箱 郵箱 邮件 メール 이메일",
    "diet": "diet vegan* vegetarian* veggie ernähr* diät vegetar* régime végét* végan* dieta vegetarian* vegano vegana диет* веган* вегетариан* 素食 饮食 菜食 食事制限 채식 식단",
    "likes": "like likes liked love loves enjoy* prefer* favourite favorite favourites fond mag magst mögen liebe* lieblings* gern aime aimes adore préfèr* préfér* gusta gustan gusto encanta encantan prefier* "
    "favorit* piace piacciono adoro gosto gosta prefir* любл* люби* нрав* предпоч* 喜欢 喜歡 爱 愛 偏好 好き 大好き 좋아 선호",
    "dislikes": "hate hates hated dislike* detest* avoid* hasse hasst déteste* odio odia odeio ненавиж* 讨厌 討厭 嫌い 싫어",
    "marriage": "married marriage marry wedding divorc* engaged heirat* verheiratet hochzeit geschieden scheidung mari* divorcé* divorc* sposat* casad* женат замужем развод* свадьб* 结婚 結婚 离婚 離婚 결혼 이혼",
}
STATES = {
    "home": r"\b(?:i|we|you)(?:'\w+| am| are| have)? (?:\w+ ){0,2}(?:live|lived|living|reside|moved|moving) (?:in|at|to|near)\b|\blives (?:in|at|near)\b|\baddress (?:is|was)\b"
    r"|\b(?:wohn\w+|lebe) (?:\w+ )?(?:in|an|am|auf|bei)\b|\bziehe nach\b|\bumgezogen\b|\b(?:habite|vis|déménagé) (?:à|au|en|dans|rue)\b|\b(?:vivo|resido|mudé) (?:en|a)\b"
    r"|\b(?:abito|vivo|trasferit[oa]) (?:a|in)\b|\b(?:moro|vivo|mudei) (?:em|n[ao]|para)\b|\bживу (?:в|на)\b|\bпереехал\w* в\b|住在|搬到|住ん|引っ越|살고|살아|이사",
    "job": r"\b(?:i|we|you)(?:'\w+| am| are| have)? (?:\w+ ){0,2}(?:work|worked|working) (?:\w+ )?(?:at|for|as)\b|\bworks (?:at|as)\b|\b(?:employed|hired) (?:at|by|as)\b|\barbeite (?:bei|als|für)\b"
    r"|\btravaille (?:chez|pour|comme)\b|\btrabajo (?:en|como|para)\b|\blavoro (?:come|per|da|alla)\b|\btrabalho (?:como|em|n[ao]|para)\b|\bработаю\b|在.{1,20}工作|上班|働い|勤め|일하|일해",
    "birthday": r"\bborn (?:on|in)\b|\bbirthday\b|\b\d+ years? old\b|\bturn(?:ed|ing)? \d+\b|\bgeboren\b|\bjahre alt\b|\bnée? (?:le|en)\b|\b\d+ ans\b|\bnací\b|\b\d+ años\b"
    r"|\bnat[oa] (?:il|nel)\b|\b\d+ anni\b|\bnasci\b|\b\d+ anos\b|\bродил\w+\b|\b\d+ (?:лет|год)|出生|生日|\d+岁|生まれ|\d+歳|태어|\d+살",
    "name": r"\bname is\b|\bcalled\b|\bcall me\b|\bheiße\b|\bm'appelle\b|\bme llamo\b|\bmi chiamo\b|\bme chamo\b|\bзовут\b|我叫|といいます|という名前|이름은",
    "phone": r"\+?\d[\d ()/.-]{6,}\d",
    "email": r"[\w.+-]+@[\w-]+\.\w+",
}
"""What states a topic without its own word: "I live in Rome" is an address."""
STOP = frozenset(
    """
a an the this that these those it its is am are was were be been being have has had having do does did doing will would should can could may might must
of at by for with about to from in on off over under and but if or because as until while so than too very just also again still really actually there here
what which who when where why how all any some more most other such own same now then once get gets got give gives gave take takes make makes
der die das den dem des ein eine einen einem einer eines und oder aber ist bin sind war waren habe hat haben hatte wird werden an auf aus bei für gegen in im
mit nach von vor zu zum zur über es auch noch sehr so wie was wo wer dass weil wenn als am
le la les l' un une des du de d' et ou mais est suis es sommes sont était ai as a avons ont à au aux en dans sur pour par avec ce cette ces c' que qui se s' y plus très
el los las un una unos unas del al y o pero es son está están fue era he ha hay a en por para con sobre este esta esto se lo le que muy más
il lo gli i un uno una del della dei delle al alla e o ma è sono era ho ha hanno a in da di su per con questo questa si che molto più
o os as um uma uns umas do da dos das no na nos nas ao à e ou mas é são está estão foi tem há em por para com sobre este esta se que muito mais
в во на с со к у от до за из о об по и или но что это как так же бы был была были есть для при очень у
thing things fact everything all information details stuff memory anything related topic subject sache ding dinge chose choses cosa cosas cose coisa coisas вещь
""".split()  # noqa: SIM905
)
# A topic in front of one of these is part of a name: the Coffee app is no drink.
NAMED_THINGS = re.compile(
    r"(?:app|apps|application|project|projekt|projet|proyecto|progetto|projeto|team|release|launch|campaign|startup|website|site|repo|repository|server"
    r"|script|channel|podcast|book|movie|film|song|album|band|game|club|conference|inc|ltd|gmbh|corp|llc|приложение|проект|应用|應用|项目|軟件"
    r"|アプリ|プロジェクト|앱|프로젝트)\b",
    re.IGNORECASE,
)
FUNCTION_WORDS = {
    "en": "the is am are i i'm my and of to in with that it you was have has at for a",
    "de": "der die das ich ist bin und mein meine nicht ein eine mit im ihr sie",
    "fr": "le la les je j'ai est suis et mon ma des une dans que l' d'",
    "es": "el los soy es y mi una que en mis las la tengo",
    "it": "il sono è e mio mia che di un una gli la ho",
    "pt": "o os sou é e meu minha que um uma não à ao tenho",
}
ONLY_IN = {
    "en": "son kid kids gran mate bro sis manager papa no ton me im",
    "de": "kind kinder chef frau mann tante katze kater hund mein die sie ihr ihre ihren nie",
    "fr": "chat chien mari fils copain copine patron grand-père vos votre me non ni ne pas",
    "es": "prima primo tio tia colega madre padre gata gato mujer su sus tus no me mi ni",
    "it": "prima primo zia capo cane madre padre gata gato io lei lui sua me mi mai non",
    "pt": "prima primo tio tia colega pai gata gato eu seu sua teu tua me nem",
}
"""Words above that have their meaning in these languages only; in others they are other words."""
