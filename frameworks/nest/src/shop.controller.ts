// A login, a cart for two tabs, and a logout.

import { Controller, Get, HttpException, Param, Post, Redirect, Req, UseGuards } from '@nestjs/common'
import { addFlash, csrfTag, readForm, type Session, takeFlash } from 'keepsake'
import { OwnerGuard } from './owner.guard.js'
import { type Fields, manager, Visitor } from './sessions.js'

@Controller()
export class ShopController {
  @Get()
  async cart(@Visitor() s: Session<Fields>, @Req() request: object) {
    const flash = await takeFlash(request)
    return { owner: s.owner ?? null, cart: s.get('cart') ?? [], flash: flash.map(({ text }) => text) }
  }

  @Get('about')
  about() {
    return 'No session is read here.'
  }

  @Get('login')
  async form(@Req() request: object) {
    return `<form method="post" action="/login">${await csrfTag(request)}<input name="name"></form>`
  }

  @Post('login')
  @Redirect('/', 303)
  async login(@Visitor() s: Session<Fields>, @Req() request: object) {
    const form = await readForm(request)
    if (!form.ok) throw new HttpException(form.message, form.status)
    s.login(form.fields.get('name') ?? 'anna')
    addFlash(request, 'info', 'Welcome.')
  }

  @Post('cart/:item')
  add(@Visitor() s: Session<Fields>, @Param('item') item: string) {
    s.update('cart', (cart = []) => [...cart, item])
    return { added: item }
  }

  @Post('fail')
  fail(@Visitor() s: Session<Fields>) {
    s.set('cart', ['lost'])
    throw new Error('The controller failed.')
  }

  @Post('race')
  async race(@Visitor() s: Session<Fields>) {
    if (s.owner !== undefined) await manager.revokeAll(s.owner)
    s.set('cart', ['lost'])
  }

  @Get('account')
  @UseGuards(OwnerGuard)
  account(@Visitor() s: Session<Fields>) {
    return { owner: s.owner }
  }

  @Post('logout')
  @Redirect('/', 303)
  logout(@Visitor() s: Session<Fields>) {
    s.invalidate()
  }
}
