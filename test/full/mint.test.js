'use strict';
// The README's samples that mint a token, in every language: with Debian's packages where they are
// missing, or what is missing is said.
const { test } = require('../integration/lib');
const { LANGUAGES, lacks } = require('../integration/lib/snippets');
const { holdMinting } = require('../integration/lib/minting');

for (const language of Object.keys(LANGUAGES)) {
  test(`a token minted by the README's ${language} is that of its user and friends`, { skip: lacks(language), timeout: 300000 }, (t) => holdMinting(t, language));
}
