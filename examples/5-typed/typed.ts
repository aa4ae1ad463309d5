// Sessions with a schema: typed, validated, and migrated from the fields of an older version of the program.

import { crossOriginProtection, csrfTag, readForm, sessionManager } from 'keepsake'
import { logger, serve } from 'keepsake/serve'
import { z } from 'zod'

const { SESSIONS = 'sqlite:sessions.db', PORT = '8080', VERSION = '2' } = process.env

/** Version 1 has a list, `['tea', 'tea']`. Version 2 has the number of each item, `{ tea: 2 }`. */
const First = z.object({ cart: z.array(z.string()) })
const Second = z.object({ cart: z.record(z.string(), z.int().positive()) })

const migrate = (old: unknown): z.infer<typeof Second> => {
  const cart: Record<string, number> = {}
  for (const item of First.parse(old).cart) cart[item] = (cart[item] ?? 0) + 1
  return { cart }
}

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

const style = `body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
button { font: inherit; padding: .3rem .8rem; margin-right: .4rem }`

const goods = ['tea', 'milk', 'sugar'] as const
const Order = z.object({ item: z.enum(goods) })

const page = async (request: Request, lines: readonly string[]) =>
  new Response(
    `<!doctype html><html lang="en"><title>5-typed</title><style>${style}</style>
    <h1>Your cart, version ${escapeHtml(VERSION)}</h1>
    <ul>${lines.map((line) => `<li>${escapeHtml(line)}</li>`).join('') || '<li>Nothing yet.</li>'}</ul>
    <form method="post">${await csrfTag(request)}
      ${goods.map((item) => `<button name="item" value="${item}">Add ${item}</button>`).join(' ')}
    </form>`,
    { headers: { 'content-type': 'text/html; charset=utf-8' } },
  )

type Cart = { readonly lines: readonly string[]; readonly add: (item: string) => void }

const shop = (cartOf: (request: Request) => Promise<Cart>) =>
  crossOriginProtection(async (request) => {
    const cart = await cartOf(request)
    if (request.method !== 'POST') return page(request, cart.lines)
    const form = await readForm(request, Order)
    if (!form.ok) return new Response(`${form.message}\n`, { status: form.status })
    cart.add(form.fields.item)
    return new Response(null, { status: 303, headers: { location: '/' } })
  })

const first = sessionManager({ backend: SESSIONS, schema: First })
const firstShop = shop(async (request) => {
  const s = await first.session(request)
  return { lines: s.get('cart') ?? [], add: (item) => s.update('cart', (cart = []) => [...cart, item]) }
})

const second = sessionManager({ backend: SESSIONS, schema: Second, migrate })
const secondShop = shop(async (request) => {
  const s = await second.session(request)
  return {
    lines: Object.entries(s.get('cart') ?? {}).map(([item, count]) => `${count} × ${item}`),
    add: (item) => s.update('cart', (cart = {}) => ({ ...cart, [item]: (cart[item] ?? 0) + 1 })),
  }
})

await serve(logger(VERSION === '1' ? first(firstShop) : second(secondShop)), { port: Number(PORT) })
