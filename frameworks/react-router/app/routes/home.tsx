import { addFlash, csrfToken, readForm, session, takeFlash } from 'keepsake'
import { sessionContext } from 'keepsake/react-router'
import { Form, Link, redirect } from 'react-router'
import type { Fields } from '../sessions.server.ts'
import type { Route } from './+types/home'

export const loader = async ({ context }: Route.LoaderArgs) => {
  const { owner } = context.get(sessionContext)
  const { fields } = await session<Fields>(context)
  const messages = await takeFlash(context)
  return { owner, cart: fields.cart ?? [], texts: messages.map(({ text }) => text), token: await csrfToken(context) }
}

export const action = async (args: Route.ActionArgs) => {
  const form = await readForm(args)
  if (!form.ok) {
    addFlash(args, 'error', form.message)
    throw redirect('/')
  }
  const item = form.fields.get('item') ?? 'tea'
  const s = await session<Fields>(args)
  s.update('cart', (cart = []) => [...cart, item])
  addFlash(args, 'info', `${item} is in the cart.`)
  return redirect('/')
}

export default function Home({ loaderData: { owner, cart, texts, token } }: Route.ComponentProps) {
  return (
    <>
      <p id="visitor">{owner ?? 'anonymous'}</p>
      <p id="cart">{cart.join(', ')}</p>
      <p id="flash">{texts.join(' ')}</p>
      {['tea', 'cup'].map((item) => (
        <Form key={item} method="post" action="/?index">
          <input type="hidden" name="_csrf" value={token} />
          <button id={item} type="submit" name="item" value={item}>
            {item}
          </button>
        </Form>
      ))}
      <Form method="post" action="/logout">
        <input type="hidden" name="_csrf" value={token} />
        <button id="logout" type="submit">
          Log out
        </button>
      </Form>
      <Link to="/login">Log in</Link>
    </>
  )
}
