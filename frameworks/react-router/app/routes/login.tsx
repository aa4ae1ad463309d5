import { addFlash, csrfToken, readForm, session, takeFlash } from 'keepsake'
import { data, Form, redirect } from 'react-router'
import type { Route } from './+types/login'

/** It runs after an action that gives no redirect, too. Its Request is another one then, but its context is the same. */
export const loader = async (args: Route.LoaderArgs) => {
  const messages = await takeFlash(args)
  return { token: await csrfToken(args), texts: messages.map(({ text }) => text) }
}

export const action = async (args: Route.ActionArgs) => {
  const form = await readForm(args)
  if (!form.ok) return data({ message: form.message }, { status: 400 })
  if (form.fields.get('name') !== 'anna') return data({ message: 'There is no such visitor.' }, { status: 403 })
  const s = await session(args)
  s.login('anna')
  addFlash(args, 'info', 'Welcome.')
  throw redirect('/')
}

export default function Login({ loaderData: { token, texts }, actionData }: Route.ComponentProps) {
  return (
    <>
      <p id="flash">{texts.join(' ')}</p>
      <p id="message">{actionData?.message}</p>
      <Form method="post">
        <input type="hidden" name="_csrf" value={token} />
        <input name="name" aria-label="name" />
        <button id="login" type="submit">
          Log in
        </button>
      </Form>
    </>
  )
}
