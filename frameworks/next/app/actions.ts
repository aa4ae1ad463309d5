'use server'

import { notFound, redirect } from 'next/navigation'
import { addFlash, readForm, saving, session } from '../sessions'

export const login = saving(async (_: FormData) => {
  const form = await readForm()
  if (!form.ok) {
    addFlash('error', form.message)
    redirect('/login')
  }
  const s = await session()
  s.login(form.fields.get('name') ?? '', { keep: ['cart'] })
  addFlash('info', 'Welcome.')
  redirect('/')
})

export const add = saving(async (data: FormData) => {
  const s = await session()
  s.update('cart', (cart = []) => [...cart, String(data.get('item'))])
})

export const count = saving(async () => {
  const s = await session()
  s.update('n', (n = 0) => n + 1)
  return s.get('n')
})

export const disappear = saving(async () => {
  const s = await session()
  s.set('n', 404)
  notFound()
})

export const fail = saving(async () => {
  const s = await session()
  s.set('n', 500)
  throw new Error('The action failed.')
})

export const message = saving(async () => {
  addFlash('info', 'A message.')
  redirect('/')
})

/** Another request ends the session while this action is in progress. */
export const slow = saving(async () => {
  const s = await session()
  s.set('n', 409)
  const { manager } = await import('../sessions')
  await manager().revoke(s.label)
})

export const unwrapped = async () => {
  const s = await session()
  s.set('n', 1)
}

export const upload = saving(async (_: FormData) => {
  const form = await readForm()
  if (!form.ok) {
    addFlash('error', form.error)
    redirect('/')
  }
  const [[field, file] = []] = form.files
  addFlash('info', `${field} ${file?.name} ${await file?.text()} ${form.fields}`)
  redirect('/')
})
