// Sealing: a token opens only for its own context and under the secrets of its key ring.

import assert from 'node:assert/strict'
import { createHash, createSecretKey, randomBytes } from 'node:crypto'
import { suite, test } from 'node:test'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { KeepsakeError } from 'keepsake'
import { gcm, hkdf, keyRing, newSecret, xaes } from '../../src/crypto/seal.ts'
import vectors from '../data/seal-vectors.json' with { type: 'json' }

const hex = (text: string) => Buffer.from(text, 'hex')
const context = { purpose: 'pre-session', name: '__Host-Http-sid-pre' }
const text = (bytes: Uint8Array | undefined) => bytes && Buffer.from(bytes).toString()
const secret = () => randomBytes(32)
const SECRET = newSecret()

suite('published vectors', () => {
  for (const [i, { key, nonce, associated, plain, sealed }] of vectors.xaes.entries()) {
    test(`XAES-256-GCM, C2SP ${i + 1}`, () => {
      const aead = xaes(hex(key))
      assert.equal(aead.seal(hex(nonce), hex(plain), hex(associated)).toString('hex'), sealed)
      assert.equal(aead.open(hex(nonce), hex(sealed), hex(associated))?.toString('hex'), plain)
    })
  }
  test('XAES-256-GCM, C2SP accumulated over 10 000 rounds', () => {
    const stream = createHash('shake128', { outputLength: 4_500_000 }).digest()
    let at = 0
    const read = (length: number) => {
      at += length
      return stream.subarray(at - length, at)
    }
    const sum = createHash('shake128', { outputLength: 32 })
    for (let round = 0; round < 10_000; round++) {
      const aead = xaes(read(32))
      const nonce = read(24)
      const plain = read(read(1)[0] as number)
      const associated = read(read(1)[0] as number)
      const sealed = aead.seal(nonce, plain, associated)
      assert.ok(aead.open(nonce, sealed, associated)?.equals(plain))
      sum.update(sealed)
    }
    assert.equal(sum.digest('hex'), vectors.xaesAccumulated10000)
  })
  for (const [i, { key, nonce, associated, plain, sealed }] of vectors.gcm.entries()) {
    test(`AES-256-GCM ${i + 1}`, () => {
      const keyObject = createSecretKey(hex(key))
      assert.equal(gcm.seal(keyObject, hex(nonce), hex(plain), hex(associated)).toString('hex'), sealed)
      assert.equal(gcm.open(keyObject, hex(nonce), hex(sealed), hex(associated))?.toString('hex'), plain)
    })
  }
  for (const { secret, info, length, key } of vectors.hkdf) {
    test('HKDF-SHA-256, RFC 5869 A.3', () => assert.equal(hkdf(hex(secret), info, length).toString('hex'), key))
  }
})

suite('a key ring', () => {
  test('opens the tokens that it sealed, for all bytes', () => {
    const keys = keyRing([secret()])
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2900 }), (plain) => {
        assert.deepEqual([...(keys.open(context, keys.seal(context, plain)) ?? [])], [...plain])
      }),
    )
  })
  test('CK-4: 2980 bytes of JSON fit into a cookie', () => {
    const token = keyRing([secret()]).seal(context, Buffer.alloc(2980))
    assert.ok(token.length + '__Host-Http-sid='.length <= 4096)
  })
  test('seals the same bytes differently each time', () => {
    const keys = keyRing([secret()])
    const tokens = Array.from({ length: 1000 }, () => keys.seal(context, Buffer.from('same')))
    assert.equal(new Set(tokens).size, 1000)
  })
  test('ENC-3: a token opens for no other purpose, cookie or audience', () => {
    const keys = keyRing([secret()])
    const token = keys.seal({ purpose: 'ab', name: 'c', audience: 'd' }, Buffer.from('x'))
    for (const other of [
      { purpose: 'a', name: 'bc', audience: 'd' },
      { purpose: 'ab', name: 'cd' },
      { purpose: 'ab', name: 'c', audience: '' },
      { purpose: 'ab', name: 'C', audience: 'd' },
    ]) {
      assert.equal(keys.open(other, token), undefined)
    }
    assert.equal(text(keys.open({ purpose: 'ab', name: 'c', audience: 'd' }, token)), 'x')
  })
  test('ENC-3: nor after the right context was opened, with any characters in the two contexts', () => {
    const parts = fc.string({ unit: fc.constantFrom('a', '\0', ' ', '1', ';'), maxLength: 3 })
    const contexts = fc.record({ purpose: parts, name: parts, audience: parts })
    fc.assert(
      fc.property(contexts, contexts, (one, other) => {
        const keys = keyRing([SECRET])
        const token = keys.seal(one, Buffer.from('x'))
        assert.equal(text(keys.open(one, token)), 'x')
        const same = JSON.stringify(Object.entries(one)) === JSON.stringify(Object.entries(other))
        assert.equal(keys.open(other, token) !== undefined, same)
      }),
      {
        numRuns: 3000,
        examples: [
          [
            { purpose: 't', name: 'a\0b', audience: 'c' },
            { purpose: 't', name: 'a', audience: 'b\0c' },
          ],
        ],
      },
    )
  })
  test('accepts a secret whose bytes are of another realm, as in test runners', () => {
    const bytes = runInNewContext('Uint8Array.from(bytes)', { bytes: [...Buffer.from(SECRET, 'hex')] })
    assert.ok(!(bytes instanceof Uint8Array))
    assert.equal(text(keyRing([SECRET]).open(context, keyRing([bytes]).seal(context, Buffer.from('x')))), 'x')
  })
  test('ENC-2, ENC-5: no flipped bit, no truncation, no addition and no other spelling opens', () => {
    const keys = keyRing([secret()])
    const token = keys.seal(context, Buffer.from('anna'))
    const bytes = Buffer.from(token, 'base64url')
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7))
      assert.equal(keys.open(context, flipped.toString('base64url')), undefined, `bit ${bit}`)
    }
    for (let length = 0; length < bytes.length; length++) {
      assert.equal(keys.open(context, bytes.subarray(0, length).toString('base64url')), undefined, `${length} bytes`)
    }
    for (const other of [`${token}=`, `${token}AA`, ` ${token}`, `${token}\n`, token.replace(/^./, '+'), '']) {
      assert.equal(keys.open(context, other), undefined)
    }
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const spellings = [...alphabet].filter((last) => keys.open(context, token.slice(0, -1) + last) !== undefined)
    assert.equal(spellings.length, 1)
  })
  test('opening never throws, for any text', () => {
    const keys = keyRing([secret()])
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (token) => keys.open(context, token) === undefined),
    )
    assert.equal(keys.open(context, 'A'.repeat(2 ** 20)), undefined)
  })
  test('ENC-7: the first secret seals, all secrets open, and a removed one opens nothing', () => {
    const [a, b] = [secret(), secret()]
    const old = keyRing([a]).seal(context, Buffer.from('old'))
    const rotated = keyRing([b, a])
    assert.equal(text(rotated.open(context, old)), 'old')
    const fresh = rotated.seal(context, Buffer.from('new'))
    assert.equal(text(keyRing([b]).open(context, fresh)), 'new')
    assert.equal(keyRing([b]).open(context, old), undefined)
    assert.equal(keyRing([a]).open(context, fresh), undefined)
  })
})

suite('a secret', () => {
  const refused = (secrets: readonly (string | Uint8Array)[]) =>
    assert.throws(
      () => keyRing(secrets),
      (error) => error instanceof KeepsakeError && error.code === 'invalid_option',
    )
  test('SEC-1: short secrets, phrases, samples, repetitions and other types are refused', () => {
    for (const bad of [
      'secret',
      'A'.repeat(31),
      'A'.repeat(32),
      'A'.repeat(43),
      'complex_password_at_least_32_characters_long',
      'correct horse battery staple correct horse battery staple',
      'correcthorsebatterystaplecorrecthorsebatterystaple',
      '0'.repeat(64),
      randomBytes(31).toString('base64url'),
      randomBytes(31),
      new Uint8Array(32),
      '',
      42 as unknown as string,
    ]) {
      refused([bad])
    }
  })
  test('SEC-1: 32 random bytes are accepted, as bytes, hex, base64 and base64url', () => {
    for (let i = 0; i < 200; i++) {
      const bytes = randomBytes(32)
      const token = keyRing([bytes]).seal(context, Buffer.from('x'))
      for (const spelling of ['hex', 'base64', 'base64url'] as const) {
        assert.equal(text(keyRing([bytes.toString(spelling)]).open(context, token)), 'x', spelling)
      }
    }
    keyRing([newSecret()])
  })
  test('an empty list and the same secret twice are refused, but a stored secret may be in the list', () => {
    refused([])
    const stored = newSecret()
    refused([stored, stored])
    refused([stored, hex(stored)])
    const token = keyRing([stored]).seal(context, Buffer.from('x'))
    for (const configured of [[secret()], [hex(stored)], []]) {
      assert.equal(text(keyRing(configured, stored).open(context, token)), 'x')
    }
  })
  test('a message about a secret does not contain it', () => {
    const bad = 'hunter2-hunter2-hunter2'
    assert.throws(
      () => keyRing([bad]),
      (error) => error instanceof KeepsakeError && !error.message.includes(bad),
    )
  })
})
